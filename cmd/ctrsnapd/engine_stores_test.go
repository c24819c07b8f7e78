package main_test

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/engine/enginetest"
)

// mariadbStore spreads keys over a table of each storage engine.
type mariadbStore struct {
	db      *sql.DB
	conn    *sql.Conn
	engines []string
}

// mariadbEngines and mysqlEngines are their storage engines.
var mariadbEngines, mysqlEngines = []string{"InnoDB", "MyISAM", "Aria"}, []string{"InnoDB", "MyISAM"}

// tableOf is the table of a key.
func tableOf(engines []string, key string) string {
	return "kv_" + strings.ToLower(engines[int(key[len(key)-1])%len(engines)])
}

func openMariaDB(ctx context.Context, c api.Clone) (enginetest.Store, error) {
	return openMySQL(ctx, c, mariadbEngines)
}

func openMySQL(ctx context.Context, c api.Clone, engines []string) (enginetest.Store, error) {
	cfg := mysql.NewConfig()
	cfg.User, cfg.Passwd, cfg.DBName, cfg.Net, cfg.Addr = c.User, c.Password, c.Database, "tcp", net.JoinHostPort(c.Host, strconv.Itoa(c.Port))
	cfg.Logger = &mysql.NopLogger{}
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector)
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &mariadbStore{db, conn, engines}, nil
}

func (s *mariadbStore) Put(ctx context.Context, key, value string) error {
	_, err := s.conn.ExecContext(ctx, "REPLACE INTO "+tableOf(s.engines, key)+" VALUES (?, ?)", key, value)
	return err
}

func (s *mariadbStore) Get(ctx context.Context, key string) (string, error) {
	var v string
	err := s.conn.QueryRowContext(ctx, "SELECT v FROM "+tableOf(s.engines, key)+" WHERE k = ?", key).Scan(&v)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return v, err
}

func (s *mariadbStore) Close() error { return errors.Join(s.conn.Close(), s.db.Close()) }

// dialClone connects to a clone by TCP.
func dialClone(ctx context.Context, c api.Clone) (net.Conn, *bufio.Reader, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(c.Host, strconv.Itoa(c.Port)))
	if err != nil {
		return nil, nil, err
	}
	return conn, bufio.NewReader(conn), conn.SetDeadline(time.Now().Add(5 * time.Minute))
}

type redisStore struct {
	net.Conn
	r *bufio.Reader
}

func openRedis(ctx context.Context, c api.Clone) (enginetest.Store, error) {
	conn, r, err := dialClone(ctx, c)
	if err != nil {
		return nil, err
	}
	s := &redisStore{conn, r}
	_, err = s.do("AUTH", c.User, c.Password)
	return s, err
}

func (s *redisStore) do(args ...string) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	if _, err := io.WriteString(s.Conn, b.String()); err != nil {
		return "", err
	}
	line, err := s.r.ReadString('\n')
	line = strings.TrimSpace(line)
	switch {
	case err != nil:
		return "", err
	case line[0] == '-':
		return "", errors.New(line)
	case line[0] != '$' || line == "$-1":
		return strings.TrimPrefix(line, "$-1"), nil
	}
	n, err := strconv.Atoi(line[1:])
	if err != nil {
		return "", err
	}
	text := make([]byte, n+2)
	_, err = io.ReadFull(s.r, text)
	return string(text[:n]), err
}

func (s *redisStore) Put(_ context.Context, key, value string) error {
	_, err := s.do("SET", key, value)
	return err
}
func (s *redisStore) Get(_ context.Context, key string) (string, error) { return s.do("GET", key) }

// etcdStore speaks JSON, see https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/.
type etcdStore struct{ url string }

func openEtcd(_ context.Context, c api.Clone) (enginetest.Store, error) { return etcdStore{c.URL}, nil }

func (s etcdStore) do(ctx context.Context, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", path, resp.Status, text)
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(text, out)
}

func (s etcdStore) Put(ctx context.Context, key, value string) error {
	var out struct{}
	return s.do(ctx, "/v3/kv/put", map[string][]byte{"key": []byte(key), "value": []byte(value)}, &out)
}

func (s etcdStore) Get(ctx context.Context, key string) (string, error) {
	var out struct{ KVs []struct{ Value []byte } }
	err := s.do(ctx, "/v3/kv/range", map[string][]byte{"key": []byte(key)}, &out)
	if err != nil || len(out.KVs) == 0 {
		return "", err
	}
	return string(out.KVs[0].Value), nil
}

func (etcdStore) Close() error { return nil }

// natsStore keeps the last message of each subject of a stream. See
// https://docs.nats.io/reference/reference-protocols/nats-protocol.
type natsStore struct {
	net.Conn
	r *bufio.Reader
}

func openNATS(ctx context.Context, c api.Clone) (enginetest.Store, error) {
	conn, r, err := dialClone(ctx, c)
	if err != nil {
		return nil, err
	}
	_, err = fmt.Fprintf(conn, "CONNECT {\"user\":%q,\"pass\":%q,\"verbose\":false}\r\nSUB _I 1\r\n", c.User, c.Password)
	return &natsStore{conn, r}, err
}

// ask publishes a message and returns the answer.
func (s *natsStore) ask(subject, payload string, out any) error {
	if _, err := fmt.Fprintf(s.Conn, "PUB %s _I %d\r\n%s\r\n", subject, len(payload), payload); err != nil {
		return err
	}
	for {
		line, err := s.r.ReadString('\n')
		if err != nil {
			return err
		}
		switch f := strings.Fields(line); f[0] {
		case "-ERR":
			return errors.New(line)
		case "PING":
			if _, err := io.WriteString(s.Conn, "PONG\r\n"); err != nil {
				return err
			}
		case "MSG":
			n, err := strconv.Atoi(f[len(f)-1])
			if err != nil {
				return err
			}
			text := make([]byte, n+2)
			if _, err := io.ReadFull(s.r, text); err != nil {
				return err
			}
			return json.Unmarshal(text[:n], out)
		}
	}
}

func (s *natsStore) Put(_ context.Context, key, value string) error {
	var ack struct{ Error *struct{ Description string } }
	err := s.ask("kv."+key, value, &ack)
	if err == nil && ack.Error != nil {
		err = errors.New(ack.Error.Description)
	}
	return err
}

func (s *natsStore) Get(_ context.Context, key string) (string, error) {
	var out struct {
		Message struct{ Data string }
		Error   *struct {
			Code        int
			Description string
		}
	}
	err := s.ask("$JS.API.STREAM.MSG.GET.KV", fmt.Sprintf(`{"last_by_subj":"kv.%s"}`, key), &out)
	if err == nil && out.Error != nil && out.Error.Code != http.StatusNotFound {
		err = errors.New(out.Error.Description)
	}
	text, derr := base64.StdEncoding.DecodeString(out.Message.Data)
	return string(text), errors.Join(err, derr)
}

// postgresStore is a table of PostgreSQL.
type postgresStore struct{ *pgconn.PgConn }

func openPostgres(ctx context.Context, c api.Clone) (enginetest.Store, error) {
	conn, err := pgconn.Connect(ctx, c.URL)
	return postgresStore{conn}, err
}

func (s postgresStore) do(ctx context.Context, sql string, args ...string) (string, error) {
	values := make([][]byte, len(args))
	for i, a := range args {
		values[i] = []byte(a)
	}
	r := s.ExecParams(ctx, sql, values, nil, nil, nil).Read()
	if r.Err != nil || len(r.Rows) == 0 {
		return "", r.Err
	}
	return string(r.Rows[0][0]), nil
}

func (s postgresStore) Put(ctx context.Context, key, value string) error {
	_, err := s.do(ctx, "INSERT INTO kv VALUES ($1, $2) ON CONFLICT (k) DO UPDATE SET v = excluded.v", key, value)
	return err
}

func (s postgresStore) Get(ctx context.Context, key string) (string, error) {
	return s.do(ctx, "SELECT v FROM kv WHERE k = $1", key)
}

func (s postgresStore) Close() error { return s.PgConn.Close(context.Background()) }
