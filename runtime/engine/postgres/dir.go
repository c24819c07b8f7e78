package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strings"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/engine/dial"
	"github.com/ctrsnap/ctrsnap/runtime/engine/rootfs"
	"github.com/ctrsnap/ctrsnap/runtime/engine/source"
	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/foreign"
)

// emptied are the directories whose contents a server makes anew, or which
// belong to one machine, as pg_basebackup leaves them out. Slots would keep a
// server from starting without replication.
// See https://www.postgresql.org/docs/current/protocol-replication.html, BASE_BACKUP.
var emptied = map[string]bool{
	"pg_dynshmem": true, "pg_notify": true, "pg_replslot": true, "pg_serial": true,
	"pg_snapshots": true, "pg_stat_tmp": true, "pg_subtrans": true, "log": true, "pg_log": true,
}

// leftOut are files that speak of the server that the directory came from.
// Without the signal files a standby's directory becomes a server of its own.
var leftOut = map[string]bool{
	"postmaster.pid": true, "postmaster.opts": true, "standby.signal": true, "recovery.signal": true,
	"current_logfiles": true, "postgresql.auto.conf.tmp": true, "backup_label.old": true,
	"tablespace_map": true, // it would have recovery make links to where tablespaces were
}

// minimalConf stands in for a configuration that lies elsewhere (Debian).
const minimalConf = "# The data directory came without a configuration.\n"

// foundDir copies a data directory and has the server recover it.
func (b *build) foundDir(ctx context.Context) error {
	b.cluster = true
	b.wb.Step("copy data directory")
	src, err := os.OpenRoot(b.hostPath("dir"))
	if err != nil {
		return fmt.Errorf("open data directory: %w", err)
	}
	defer func() { _ = src.Close() }()
	version, err := checkDir(src)
	if err != nil {
		return err
	}
	err = rootfs.Edit(ctx, b.wb.Root, func(r *rootfs.Root) error {
		if err := b.detect(r, version); err != nil {
			return err
		}
		data, err := r.Dir(b.st.DataDir)
		if err != nil {
			return err
		}
		defer func() { _ = data.Close() }()
		return b.copyDir(ctx, src, data)
	})
	if err != nil {
		return err
	}
	b.wb.Step("recover data directory")
	if err := b.recover(ctx); err != nil {
		return err
	}
	b.st.User, b.st.Passwd = b.src.User, b.src.Password
	if b.st.User == "" {
		b.st.User = b.st.Admin
	}
	return b.start(ctx)
}

// checkDir says whether a directory is a data directory that this machine
// can serve, and of which major version.
func checkDir(src *os.Root) (version int, err error) {
	text, err := foreign.ReadFile(src, "PG_VERSION", 64)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, source.DirError("no data directory: PG_VERSION is missing")
	}
	if err != nil {
		return 0, source.DirError("no data directory: %v", err)
	}
	version = major(strings.TrimSpace(string(text)))
	if version < minMajor {
		return 0, source.DirError("it is of PostgreSQL %.10s, the oldest that is served is %d", text, minMajor)
	}
	if _, err := readControl(src); err != nil {
		return 0, source.DirError("%v", err)
	}
	return version, nil // block sizes and the like are checked by the server
}

// copyDir copies src to dst, owned by the server.
func (b *build) copyDir(ctx context.Context, src, dst *os.Root) error {
	t := source.Tree{UID: b.st.UID, GID: b.st.GID, Skip: left, Progress: b.wb.Progress}
	if err := t.Copy(ctx, src, dst); err != nil {
		return err
	}
	if _, err := dst.Lstat("postgresql.conf"); errors.Is(err, fs.ErrNotExist) {
		return b.writeData(dst, "postgresql.conf", minimalConf)
	}
	return nil
}

// left says what is not copied: what speaks of the server that the directory came from,
// and what a server makes anew. A link to a tablespace leads to what is not there.
func left(name string, d fs.DirEntry) (bool, error) {
	top, rest, _ := strings.Cut(name, "/")
	base := path.Base(name)
	skip := leftOut[name] || (emptied[top] && rest != "") ||
		strings.HasPrefix(base, "pgsql_tmp") || base == "pg_internal.init" || d.Type() == fs.ModeSocket
	if !skip && top == "pg_tblspc" && rest != "" && !d.IsDir() && !d.Type().IsRegular() {
		return false, source.DirError("%s is a tablespace outside of it; move its tables to pg_default first", name)
	}
	return skip, nil
}

func (b *build) writeData(dst *os.Root, name, text string) error {
	if err := foreign.WriteFile(dst, name, []byte(text), 0o600); err != nil {
		return err
	}
	return dst.Chown(name, int(b.st.UID), int(b.st.GID))
}

// nameRE is a value as a server in single-user mode prints it.
var nameRE = regexp.MustCompile(`(?m)^\s*1: rolname = "(.*)"\t\(typeid`)

// recover lets the server replay its log, and finds a superuser: in
// single-user mode nobody has to log in.
func (b *build) recover(ctx context.Context) error {
	const question = "SELECT rolname FROM pg_catalog.pg_authid WHERE rolsuper AND rolcanlogin " +
		"ORDER BY rolname <> 'postgres', oid LIMIT 1\n"
	answer, err := b.single(ctx, question)
	if err != nil {
		return err
	}
	if m := nameRE.FindStringSubmatch(answer); m != nil {
		b.st.Admin = m[1]
		return nil
	}
	b.st.Admin = loginRole
	_, err = b.single(ctx, "CREATE ROLE "+loginRole+" SUPERUSER LOGIN\n")
	return err
}

// maxSingle bounds what a server says that runs for one query, in bytes.
const maxSingle = 1 << 20

func (b *build) single(ctx context.Context, sql string) (string, error) {
	settings := buildSettings(major(b.st.Version))
	for k, v := range b.st.contract() {
		settings[k] = v
	}
	if major(b.st.Version) >= 15 { // a tablespace that was elsewhere is a directory of this one now
		settings["allow_in_place_tablespaces"] = "on"
	}
	args := append([]string{"postgres", "--single", "-D", b.st.DataDir}, settingArgs(settings)...)
	out := dial.Answer{Limit: maxSingle}
	var failed tail
	err := b.wb.Run(ctx, b.st.process(append(args, "template1"), "LC_ALL=C"), runtime.RunOpts{Stdio: runtime.Stdio{
		Stdin: strings.NewReader(sql), Stdout: &out, Stderr: &failed,
	}})
	var exit *runtime.ExitError
	if errors.As(err, &exit) {
		return "", snapshot.WithHint(source.DirError("PostgreSQL %s: %s", b.st.Version, serverMessage(failed.String())),
			"the directory, or its postgresql.conf, asks for something that the base does not have")
	}
	return out.String(), err
}
