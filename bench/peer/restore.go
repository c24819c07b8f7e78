package peer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
)

// Dump writes the database of a server to a file, in a format of pg_dump(1).
func Dump(ctx context.Context, b *Bare, format, file string) error {
	return b.tool(ctx, "pg_dump", "--format="+format, "--file="+file, b.Database)
}

// tool runs a client program of the server's version against it.
func (b *Bare) tool(ctx context.Context, name string, args ...string) error {
	program := filepath.Join(filepath.Dir(b.args[0]), name)
	if _, err := exec.LookPath(program); err != nil {
		return fmt.Errorf("%s beside %s: %w", name, b.args[0], ErrNotHere)
	}
	at := []string{"--host=" + filepath.Dir(b.Socket), "--port=" + strings.TrimPrefix(filepath.Ext(b.Socket), "."), "--username=" + b.User}
	cmd := exec.CommandContext(ctx, program, append(at, args...)...)
	cmd.Env = append(os.Environ(), "PGPASSWORD="+b.Password)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("run %s: %w: %s", name, err, out)
	}
	return nil
}

// Restore restores a dump into a database of a server that runs, for each.
type Restore struct {
	server *Bare
	dump   string
	admin  *pgconn.PgConn
	made   int
}

var _ Peer = (*Restore)(nil)

// NewRestore connects to the server, which must have the golden's roles. dump is a file
// of format custom. The caller must Close it; the server goes on.
func NewRestore(ctx context.Context, server *Bare, dump string) (*Restore, error) {
	admin, err := connectAdmin(ctx, server)
	return &Restore{server: server, dump: dump, admin: admin}, err
}

// connectAdmin connects to a database that nobody copies.
func connectAdmin(ctx context.Context, server *Bare) (*pgconn.PgConn, error) {
	at := server.Endpoint
	at.Database = "template1"
	admin, err := at.Connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to server: %w", err)
	}
	return admin, nil
}

// Name implements [Peer].
func (r *Restore) Name() string { return "pg_restore" }

// Get implements [Peer].
func (r *Restore) Get(ctx context.Context) (Endpoint, Drop, error) {
	r.made++
	at := r.server.Endpoint
	at.Database = fmt.Sprintf("restored%d", r.made)
	if err := execute(ctx, r.admin, "CREATE DATABASE "+at.Database+" TEMPLATE template0"); err != nil {
		return at, nil, err
	}
	drop := func(ctx context.Context) error {
		return execute(ctx, r.admin, "DROP DATABASE "+at.Database+" WITH (FORCE)")
	}
	err := r.server.tool(ctx, "pg_restore", "--jobs=2", "--dbname="+at.Database, r.dump)
	if err == nil {
		err = at.Answer(ctx)
	}
	if err != nil {
		return at, nil, errors.Join(err, drop(context.WithoutCancel(ctx)))
	}
	return at, drop, nil
}

// Close implements [Peer].
func (r *Restore) Close(ctx context.Context) error { return r.admin.Close(ctx) }

func execute(ctx context.Context, conn *pgconn.PgConn, sql string) error {
	if _, err := conn.Exec(ctx, sql).ReadAll(); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}

// NewInitdb makes a cluster for each database, starts a server and runs a plain dump:
// what most jobs do. It fails with [ErrNotHere] where the programs are not
// beside the server.
func NewInitdb(o Original, login Endpoint, place Place, script string) (*Server, error) {
	bin := filepath.Dir(o.Args[0])
	for _, name := range []string{"initdb", "psql"} {
		if _, err := exec.LookPath(filepath.Join(bin, name)); err != nil {
			return nil, fmt.Errorf("%s beside %s: %w", name, o.Args[0], ErrNotHere)
		}
	}
	o.Fill = func(dst string) error { return initdb(o, filepath.Join(bin, "initdb"), login, dst) }
	database := login.Database
	login.Database = "postgres"
	return &Server{name: "initdb_sql", o: o, login: login, place: place, after: func(ctx context.Context, b *Bare) (Endpoint, error) {
		at := b.Endpoint
		at.Database = database
		if database != "postgres" {
			if err := b.tool(ctx, "psql", "--no-psqlrc", "--quiet", "--command=CREATE DATABASE \""+database+"\"", "postgres"); err != nil {
				return at, err
			}
		}
		if err := b.tool(ctx, "psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--file="+script, database); err != nil {
			return at, err
		}
		return at, at.Answer(ctx)
	}}, nil
}

// initdb makes a cluster at dst as the server's user.
func initdb(o Original, program string, login Endpoint, dst string) error {
	password := dst + ".password"
	if err := os.WriteFile(password, []byte(login.Password+"\n"), 0o600); err != nil {
		return err
	}
	defer os.Remove(password) //nolint:errcheck // its directory goes next
	for _, err := range []error{os.Mkdir(dst, 0o700), os.Chown(dst, int(o.UID), int(o.GID)), os.Chown(password, int(o.UID), int(o.GID))} {
		if err != nil {
			return err
		}
	}
	args := []string{"--no-sync", "--encoding=UTF8", "--locale=C", "--username=" + login.User, "--pgdata=" + dst}
	if login.Password != "" {
		args = append(args, "--pwfile="+password)
	}
	cmd := exec.Command(program, args...)
	cmd.Env, cmd.Dir = o.Env, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: o.UID, Gid: o.GID}}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("run initdb: %w: %s", err, out)
	}
	return nil
}
