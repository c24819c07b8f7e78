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
	"github.com/ctrsnap/ctrsnap/runtime/engine/rootfs"
	"github.com/ctrsnap/ctrsnap/snapshot"
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
	err = b.root(ctx, func(r *rootfs.Root) error {
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
	text, err := src.ReadFile("PG_VERSION")
	if err != nil {
		return 0, dirError("no data directory: PG_VERSION is missing")
	}
	version = major(strings.TrimSpace(string(text)))
	if version < minMajor {
		return 0, dirError("it is of PostgreSQL %.10s, the oldest that is served is %d", text, minMajor)
	}
	if _, err := readControl(src); err != nil {
		return 0, dirError("%v", err)
	}
	return version, nil // block sizes and the like are checked by the server
}

func dirError(format string, args ...any) error {
	return &runtime.SourceError{File: "data directory", Message: fmt.Sprintf(format, args...)}
}

// copyDir copies src to dst, owned by the server. On a filesystem that can,
// copy_file_range(2) shares the blocks.
func (b *build) copyDir(ctx context.Context, src, dst *os.Root) error {
	var done int64
	err := fs.WalkDir(src.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		if left(name, d) {
			return nil
		}
		n, err := b.copyEntry(src, dst, name, d)
		done += n
		b.wb.Progress(done, 0)
		return err
	})
	if err != nil {
		return fmt.Errorf("copy data directory: %w", err)
	}
	if _, err := dst.Stat("postgresql.conf"); errors.Is(err, fs.ErrNotExist) {
		return b.writeData(dst, "postgresql.conf", minimalConf)
	}
	return nil
}

func left(name string, d fs.DirEntry) bool {
	top, rest, _ := strings.Cut(name, "/")
	base := path.Base(name)
	return leftOut[name] || (emptied[top] && rest != "") ||
		strings.HasPrefix(base, "pgsql_tmp") || base == "pg_internal.init" || d.Type() == fs.ModeSocket
}

func (b *build) copyEntry(src, dst *os.Root, name string, d fs.DirEntry) (int64, error) {
	switch {
	case name == ".":
		return 0, nil
	case d.IsDir():
		if err := dst.Mkdir(name, 0o700); err != nil {
			return 0, err
		}
		return 0, dst.Chown(name, int(b.st.UID), int(b.st.GID))
	case d.Type().IsRegular():
		return b.copyFile(src, dst, name)
	case strings.HasPrefix(name, "pg_tblspc/"):
		return 0, dirError("%s is a tablespace outside of it; move its tables to pg_default first", name)
	default:
		return 0, dirError("%s is neither a file nor a directory: what it leads to is not here", name)
	}
}

func (b *build) copyFile(src, dst *os.Root, name string) (n int64, err error) {
	in, err := src.Open(name)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	out, err := dst.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if n, err = out.ReadFrom(in); err != nil {
		return n, err
	}
	return n, out.Chown(int(b.st.UID), int(b.st.GID))
}

func (b *build) writeData(dst *os.Root, name, text string) error {
	if err := dst.WriteFile(name, []byte(text), 0o600); err != nil {
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

func (b *build) single(ctx context.Context, sql string) (string, error) {
	settings := buildSettings(major(b.st.Version))
	for k, v := range b.st.contract() {
		settings[k] = v
	}
	args := append([]string{"postgres", "--single", "-D", b.st.DataDir}, settingArgs(settings)...)
	var out strings.Builder
	var failed tail
	err := b.wb.Run(ctx, b.st.process(append(args, "template1"), "LC_ALL=C"), runtime.RunOpts{Stdio: runtime.Stdio{
		Stdin: strings.NewReader(sql), Stdout: &out, Stderr: &failed,
	}})
	var exit *runtime.ExitError
	if errors.As(err, &exit) {
		return "", snapshot.WithHint(dirError("PostgreSQL %s: %s", b.st.Version, serverMessage(failed.String())),
			"the directory, or its postgresql.conf, asks for something that the base does not have")
	}
	return out.String(), err
}
