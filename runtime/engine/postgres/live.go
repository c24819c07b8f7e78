package postgres

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/engine/dial"
	"github.com/ctrsnap/ctrsnap/runtime/engine/rootfs"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// liveDir takes the dump of a live database, in the root filesystem under
// construction: nothing else is writable for a container.
const liveDir = "/ctrsnap/live"

// live is a database to be dumped.
type live struct {
	url      string // without its password: it is an argument, for all to see
	password string
	host     string
	database string
}

// liveParams are the parameters of a URL that say how the server is spoken to. Others say where it is found (service, hostaddr …) or
// name files (passfile …): see https://www.postgresql.org/docs/18/libpq-connect.html.
var liveParams = []string{
	"application_name", "channel_binding", "client_encoding", "connect_timeout", "fallback_application_name", "gssencmode",
	"keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "options", "require_auth", "ssl_max_protocol_version",
	"ssl_min_protocol_version", "sslcert", "sslcompression", "sslkey", "sslmode", "sslnegotiation", "sslrootcert", "sslsni",
	"target_session_attrs", "tcp_user_timeout",
}

// parseLive reads the URL of a live database. Its errors do not show it. The URL that it returns is made anew of the parts that it
// knows: programs read it otherwise than this one, perhaps.
func parseLive(text string) (live, error) {
	invalid := func(what, hint string) error {
		return snapshot.WithHint(fmt.Errorf("url of live database: %s: %w", what, errdefs.ErrInvalidArgument), hint)
	}
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") {
		return live{}, invalid("not a PostgreSQL URL", "write postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
	}
	l := live{host: u.Hostname(), database: strings.TrimPrefix(u.Path, "/")}
	user, port, q := "", u.Port(), u.Query()
	if u.User != nil {
		user = u.User.Username()
		l.password, _ = u.User.Password()
	}
	for param, to := range map[string]*string{"password": &l.password, "host": &l.host, "port": &port, "dbname": &l.database, "user": &user} {
		if v := q.Get(param); v != "" {
			*to = v
		}
		q.Del(param)
	}
	for param := range q {
		if !slices.Contains(liveParams, param) {
			return live{}, invalid(fmt.Sprintf("parameter %.40q is not for dumps", param), "leave it out: the URL names one host, its port and database")
		}
	}
	l.database = cmp.Or(l.database, user)
	if l.host == "" || strings.HasPrefix(l.host, "/") || strings.HasPrefix(l.host, "@") {
		return live{}, invalid("a socket of this host is not in the container that dumps", "give a host name or address")
	}
	if strings.Contains(l.host+port, ",") {
		return live{}, invalid("a list of hosts", "give one host")
	}
	if l.database == "" {
		return live{}, invalid("no database", "write postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
	}
	made := url.URL{Scheme: u.Scheme, Host: l.host, Path: "/" + l.database, RawQuery: q.Encode()}
	if strings.Contains(l.host, ":") {
		made.Host = "[" + l.host + "]"
	}
	if port != "" {
		made.Host += ":" + port
	}
	if user != "" {
		made.User = url.User(user)
	}
	l.url = made.String()
	return l, nil
}

// maxRoles bounds what a live server says of its roles, in bytes.
const maxRoles = 64 << 20

// liveConnect bounds how long a live server is waited for, in seconds.
const liveConnect = "20"

// env gives the programs the password, and the address that is connected to whatever the URL says.
func (l live) env(addr netip.Addr) []string {
	return []string{"LC_ALL=C", "PGPASSWORD=" + l.password, "PGHOST=", "PGPORT=", "PGHOSTADDR=" + addr.String(), "PGCONNECT_TIMEOUT=" + liveConnect}
}

// restoreLive dumps a live database, as of one moment, and restores it. The
// server under construction waits meanwhile: one container has the root.
func (b *build) restoreLive(ctx context.Context) error {
	l, err := parseLive(b.src.URL)
	if err != nil {
		return err
	}
	if b.src.Database == "" && b.src.Parent == nil {
		b.st.DB = l.database
	}
	if err := b.stop(ctx); err != nil {
		return err
	}
	b.wb.Step("dump " + l.database + " of " + l.host)
	addr, err := dial.Resolve(ctx, l.host)
	if err != nil {
		return &runtime.SourceError{File: l.host + "/" + l.database, Message: err.Error()}
	}
	roles, err := b.dumpLive(ctx, l, addr)
	if err != nil {
		return err
	}
	if err := b.start(ctx); err != nil {
		return err
	}
	b.wb.Step("restore " + l.database)
	if err := b.restoreRoles(ctx, roles); err != nil {
		return err
	}
	return b.restoreArchive(ctx, archive{name: l.database, path: liveDir + "/data", format: formatDirectory})
}

func (b *build) dumpLive(ctx context.Context, l live, addr netip.Addr) (roles []byte, err error) {
	err = rootfs.Edit(ctx, b.wb.Root, func(r *rootfs.Root) error {
		return r.MkdirAll(liveDir, 0o700, int(b.st.UID), int(b.st.GID))
	})
	if err != nil {
		return nil, err
	}
	err = b.runLive(ctx, l, addr, nil, "pg_dump", "-Fd", "-Z", "1", "-j", strconv.Itoa(jobs()), "--no-tablespaces",
		"-f", path.Join(liveDir, "data"), "-d", l.url)
	if err != nil {
		return nil, err
	}
	all := []string{"pg_dumpall", "--globals-only", "--no-tablespaces", "-l", l.database, "-d", l.url}
	out := dial.Answer{Limit: maxRoles}
	if err = b.runLive(ctx, l, addr, &out, all...); err != nil && !errdefs.IsInvalidArgument(err) {
		// Only superusers read passwords.
		out.Reset()
		fmt.Fprintln(b.wb.Log(), "the roles' passwords may not be read: without them")
		err = b.runLive(ctx, l, addr, &out, append(all, "--no-role-passwords")...)
	}
	return out.Bytes(), err
}

func (b *build) runLive(ctx context.Context, l live, addr netip.Addr, stdout *dial.Answer, args ...string) error {
	var failed tail
	opts := runtime.RunOpts{Reach: addr, Stdio: runtime.Stdio{Stderr: &failed}}
	if stdout != nil {
		opts.Stdout = stdout
	}
	err := b.wb.Run(ctx, b.st.process(args, l.env(addr)...), opts)
	var exit *runtime.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	msg := toolMessage(failed.String())
	source := &runtime.SourceError{File: l.host + "/" + l.database, Message: args[0] + ": " + msg}
	if strings.Contains(msg, "version mismatch") {
		return snapshot.WithHint(source, "the base has to be as new as the live server: give --image or --from-host=PREFIX")
	}
	return source
}

// restoreRoles makes the roles of a live server. What a managed server keeps
// to itself fails here and is in the log; a role that is missing after all is
// made when the dump names it.
func (b *build) restoreRoles(ctx context.Context, sql []byte) error {
	f, err := b.newFilter(ctx, bytes.NewReader(sql), "postgres", true)
	if err != nil {
		return err
	}
	p := b.tool(loading, "psql", "-X", "-q", "-d", connString("postgres"), "-f", "-")
	err = b.watch(new(atomic.Int64), 0, func() error { return b.svc.Exec(ctx, p, runtime.Stdio{Stdin: f}) })
	if err != nil {
		return fmt.Errorf("make roles: %w", err)
	}
	return nil
}
