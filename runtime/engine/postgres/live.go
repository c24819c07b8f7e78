package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
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

// parseLive reads the URL of a live database. Its errors do not show it.
func parseLive(text string) (live, error) {
	invalid := func(what, hint string) error {
		return snapshot.WithHint(fmt.Errorf("url of live database: %s: %w", what, errdefs.ErrInvalidArgument), hint)
	}
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") {
		return live{}, invalid("not a PostgreSQL URL", "write postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
	}
	l := live{host: u.Hostname(), database: strings.TrimPrefix(u.Path, "/")}
	q := u.Query()
	if u.User != nil {
		l.password, _ = u.User.Password()
		u.User = url.User(u.User.Username())
		if l.database == "" {
			l.database = u.User.Username()
		}
	}
	if pw := q.Get("password"); pw != "" {
		l.password = pw
		q.Del("password")
	}
	if h := q.Get("host"); h != "" {
		l.host = h
	}
	if db := q.Get("dbname"); db != "" {
		l.database = db
	}
	u.RawQuery = q.Encode()
	if l.host == "" || strings.HasPrefix(l.host, "/") || strings.HasPrefix(l.host, "@") {
		return live{}, invalid("a socket of this host is not in the container that dumps", "give a host name or address")
	}
	if l.database == "" {
		return live{}, invalid("no database", "write postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
	}
	l.url = u.String()
	return l, nil
}

// env gives the programs the password, and the address: a minimal root
// filesystem knows no name server.
func (l live) env(ctx context.Context) []string {
	env := []string{"LC_ALL=C", "PGPASSWORD=" + l.password, "PGHOST=", "PGPORT="}
	if !strings.Contains(l.host, ",") && net.ParseIP(l.host) == nil {
		if addrs, err := net.DefaultResolver.LookupHost(ctx, l.host); err == nil && len(addrs) > 0 {
			env = append(env, "PGHOSTADDR="+addrs[0])
		}
	}
	return env
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
	roles, err := b.dumpLive(ctx, l)
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

func (b *build) dumpLive(ctx context.Context, l live) (roles []byte, err error) {
	err = rootfs.Edit(ctx, b.wb.Root, func(r *rootfs.Root) error {
		return r.MkdirAll(liveDir, 0o700, int(b.st.UID), int(b.st.GID))
	})
	if err != nil {
		return nil, err
	}
	err = b.runLive(ctx, l, nil, "pg_dump", "-Fd", "-Z", "1", "-j", strconv.Itoa(jobs()), "--no-tablespaces",
		"-f", path.Join(liveDir, "data"), "-d", l.url)
	if err != nil {
		return nil, err
	}
	all := []string{"pg_dumpall", "--globals-only", "--no-tablespaces", "-l", l.database, "-d", l.url}
	var out bytes.Buffer
	if err = b.runLive(ctx, l, &out, all...); err != nil {
		// Only superusers read passwords.
		out.Reset()
		fmt.Fprintln(b.wb.Log(), "the roles' passwords may not be read: without them")
		err = b.runLive(ctx, l, &out, append(all, "--no-role-passwords")...)
	}
	return out.Bytes(), err
}

func (b *build) runLive(ctx context.Context, l live, stdout *bytes.Buffer, args ...string) error {
	var failed tail
	opts := runtime.RunOpts{HostNetwork: true, Stdio: runtime.Stdio{Stderr: &failed}}
	if stdout != nil {
		opts.Stdout = stdout
	}
	err := b.wb.Run(ctx, b.st.process(args, l.env(ctx)...), opts)
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
