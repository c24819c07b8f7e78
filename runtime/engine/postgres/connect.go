package postgres

import (
	"cmp"
	"maps"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// Connect returns the ways to the server: "socket", and "tcp" if it has an
// address. Both URLs are as libpq defines them (RFC 3986 with the host or the
// directory of the socket in a parameter), see
// https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS.
func (*Engine) Connect(g snapshot.Golden, ep runtime.Endpoint) (runtime.Connection, error) {
	s, err := stateOf(g)
	if err != nil {
		return runtime.Connection{}, err
	}
	if ep.Password != "" {
		s.Passwd = ep.Password
	}
	return s.connection(ep), nil
}

func (s state) connection(ep runtime.Endpoint) runtime.Connection {
	c := runtime.Connection{
		URLs: map[string]string{}, Env: map[string]map[string]string{},
		User: s.User, Password: s.Passwd, Database: s.DB,
		// libpq prefers these to PGHOST. See https://www.postgresql.org/docs/current/libpq-envars.html.
		Unset: []string{"PGHOSTADDR", "PGSERVICE", "PGSERVICEFILE"}, Client: "psql",
	}
	if ep.SocketDir != "" {
		c.Socket = socketPath(ep.SocketDir)
		c.URLs["socket"] = s.url("", url.Values{"host": {ep.SocketDir}, "port": {strconv.Itoa(port)}})
		c.Env["socket"] = s.clientEnv(ep.SocketDir, port)
	}
	if ep.Addr.IsValid() {
		c.Host, c.Port = ep.Addr.String(), cmp.Or(ep.Port, port)
		c.URLs["tcp"] = s.url(net.JoinHostPort(c.Host, strconv.Itoa(c.Port)), url.Values{"sslmode": {"disable"}})
		c.Env["tcp"] = s.clientEnv(c.Host, c.Port)
	}
	return c
}

func (s state) url(host string, query url.Values) string {
	u := url.URL{
		Scheme: "postgresql", User: url.UserPassword(s.User, s.Passwd), Host: host,
		Path: "/" + s.DB, RawPath: "/" + url.PathEscape(s.DB), RawQuery: query.Encode(),
	}
	return u.String()
}

func (s state) clientEnv(host string, port int) map[string]string {
	return map[string]string{
		"PGHOST": host, "PGPORT": strconv.Itoa(port), "PGSSLMODE": "disable",
		"PGUSER": s.User, "PGPASSWORD": s.Passwd, "PGDATABASE": s.DB,
	}
}

// socketPath is the path of the server's socket in dir.
func socketPath(dir string) string {
	return filepath.Join(dir, ".s.PGSQL."+strconv.Itoa(port))
}

var _ runtime.Describer = (*Engine)(nil)

// Describe implements [runtime.Describer].
func (*Engine) Describe() runtime.Description {
	return runtime.Description{
		Scripts: []string{".sql", ".sh"}, DumpDir: "toc.dat", DataDir: []string{"PG_VERSION"},
		LinkedDirs:  []string{"pg_wal", "pg_xlog"}, // initdb --waldir puts it elsewhere
		SkippedDirs: slices.Sorted(maps.Keys(emptied)),
		PIDFile:     "postmaster.pid", Processes: []string{"postgres", "postmaster"},
		PasswordEnv: "PGPASSWORD", Settings: true,
	}
}

// Client returns psql, connected by the socket inside the clone.
func (*Engine) Client(g snapshot.Golden, _ string, args []string) (runtime.Process, error) {
	s, err := stateOf(g)
	if err != nil {
		return runtime.Process{}, err
	}
	// A minimal root filesystem has no pager: an empty PAGER is none.
	return s.process(append([]string{"psql"}, args...),
		"PGUSER="+s.User, "PGDATABASE="+s.DB, "PAGER="), nil
}
