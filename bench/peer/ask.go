package peer

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/engine/described"
	"github.com/ctrsnap/ctrsnap/runtime/engine/mariadb"
	"github.com/ctrsnap/ctrsnap/runtime/engine/redis"
)

// protocols are those of the built-in engines beside PostgreSQL.
var protocols = map[string]described.Protocol{
	"mariadb": mariadb.New().Protocol(), "mysql": mariadb.NewMySQL().Protocol(),
	"redis": redis.New().Protocol(), "valkey": redis.NewValkey().Protocol(),
}

// Ask asks the server of a clone that is not PostgreSQL's, as its engine does before it calls a
// clone ready: it logs in and asks a query. Of a server whose protocol nobody knows here it wants an
// answer by HTTP, or a connection.
func Ask(ctx context.Context, c api.Clone) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if u, err := url.Parse(c.URL); err == nil && u.Scheme == "http" {
		return askHTTP(ctx, c.URL)
	}
	network, address := "tcp", net.JoinHostPort(c.Host, strconv.Itoa(c.Port))
	if c.Socket != "" {
		network, address = "unix", c.Socket
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return err
	}
	defer conn.Close()
	protocol := protocols[c.Engine]
	if protocol == nil {
		return nil
	}
	if err := conn.SetDeadline(time.Now().Add(connectTimeout)); err != nil {
		return err
	}
	return protocol.Ask(ctx, conn, described.Login{User: c.User, Password: c.Password, Database: c.Database})
}

// askHTTP is content with whatever a server answers, but for its errors.
func askHTTP(ctx context.Context, at string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return err
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= http.StatusInternalServerError {
		return fmt.Errorf("%s: %s", at, resp.Status)
	}
	return nil
}
