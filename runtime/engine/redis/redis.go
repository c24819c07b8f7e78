// Package redis is the engine for Redis and Valkey: a description, and what asks
// a server by their protocol.
package redis

import (
	"bufio"
	"context"
	_ "embed"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime/engine/described"
)

//go:embed redis.toml
var text string

// New returns the engine "redis".
func New() *described.Engine { return described.BuiltIn(text, protocol{}) }

// NewValkey returns the engine "valkey", whose programs have other names.
func NewValkey() *described.Engine {
	return described.BuiltIn(strings.NewReplacer(
		`"redis-`, `"valkey-`, "\nredis-", "\nvalkey-", "(redis-", "(valkey-", " redis-", " valkey-", `name = "redis"`, `name = "valkey"`,
		`user = "redis"`, `user = "valkey"`, "/var/lib/redis", "/var/lib/valkey", `"redis.sock"`, `"valkey.sock"`, `""redis-`, `""valkey-`,
	).Replace(text), protocol{})
}

// protocol asks by RESP, see https://redis.io/docs/latest/develop/reference/protocol-spec/.
type protocol struct{}

// Ask logs in and asks a query that reads the data. While the data are being loaded, a
// server takes connections and answers with LOADING.
func (protocol) Ask(_ context.Context, conn net.Conn, login described.Login) error {
	r := bufio.NewReader(conn)
	commands := [][]string{{"DBSIZE"}}
	if login.Password != "" {
		commands = append([][]string{{"AUTH", login.User, login.Password}}, commands...)
	}
	for _, c := range commands {
		if err := command(conn, r, c); err != nil {
			return err
		}
	}
	return nil
}

func command(w io.Writer, r *bufio.Reader, args []string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return notYet(err)
	}
	line, err := r.ReadString('\n')
	switch {
	case err != nil:
		return notYet(fmt.Errorf("%s: %w", args[0], err))
	case strings.HasPrefix(line, "-LOADING"):
		return notYet(fmt.Errorf("%s: %s", args[0], strings.TrimSpace(line[1:])))
	case strings.HasPrefix(line, "-"):
		return fmt.Errorf("%s: %s: %w", args[0], strings.TrimSpace(line[1:]), errdefs.ErrUnauthenticated)
	}
	return nil
}

func notYet(err error) error { return fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable) }
