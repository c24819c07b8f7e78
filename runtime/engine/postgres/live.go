package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/engine/dial"
	"github.com/ctrsnap/ctrsnap/runtime/engine/rootfs"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// liveDir takes the dump of a live database, in the root filesystem under
// construction: nothing else is writable for a container.
const liveDir = "/ctrsnap/live"

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
	if len(l.ignored) > 0 {
		b.wb.Warn("parameters of the URL that are not libpq's are left out: " + strings.Join(l.ignored, ", "))
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
		"-f", path.Join(liveDir, "data"), "-d", l.connString())
	if err != nil {
		return nil, err
	}
	all := []string{"pg_dumpall", "--globals-only", "--no-tablespaces", "-l", l.database, "-d", l.connString()}
	out := dial.Answer{Limit: maxRoles}
	err = b.runLive(ctx, l, addr, &out, all...)
	var refused *runtime.SourceError
	if errors.As(err, &refused) {
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
