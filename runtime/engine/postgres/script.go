package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/engine/source"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// scripts runs files in order, as the official image does with those in
// /docker-entrypoint-initdb.d.
func (b *build) scripts(ctx context.Context, kind string, names []string) error {
	if kind == "init" {
		if err := source.LinkInit(ctx, b.svc, b.st.env(), names); err != nil {
			return err
		}
	}
	for _, name := range names {
		b.wb.Step(kind + " " + name)
		if err := b.script(ctx, kind, name); err != nil {
			return fmt.Errorf("run %s script: %w", kind, err)
		}
	}
	return nil
}

func (b *build) script(ctx context.Context, kind, name string) error {
	switch ext := path.Ext(name); ext {
	case ".sql":
		// By its path, so that \ir finds its neighbours.
		return b.psql(ctx, patience, kind, name, b.st.DB, sourcePath(kind, name), nil)
	case ".gz", ".zst", ".xz":
		if path.Ext(strings.TrimSuffix(name, ext)) != ".sql" {
			return unknownScript(name)
		}
		return b.compressedScript(ctx, kind, name)
	case ".sh":
		return b.shell(ctx, kind, name)
	default:
		return unknownScript(name)
	}
}

func unknownScript(name string) error {
	return snapshot.WithHint(&runtime.SourceError{File: name, Message: "unknown kind of script"},
		"scripts are .sql, .sql.gz, .sql.zst, .sql.xz or .sh")
}

func (b *build) compressedScript(ctx context.Context, kind, name string) error {
	f, err := source.Open(b.wb, kind, name)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := source.Decompress(f, path.Ext(name))
	if err != nil {
		return source.UnpackError(name, err)
	}
	defer r.Close()
	in := &source.Reader{R: r}
	err = b.psql(ctx, patience, kind, name, b.st.DB, "-", in)
	if in.Err != nil {
		return source.UnpackError(name, in.Err)
	}
	return err
}

// psql runs a file, or stdin if file is "-", against a database. name is
// what errors call it.
func (b *build) psql(ctx context.Context, settings settingsOf, kind, name, database, file string, stdin io.Reader) error {
	failed := &failures{}
	p := b.psqlProcess(settings, database, file, true)
	p.Cwd = path.Dir(sourcePath(kind, name)) // for \i and \copy of files beside it
	err := b.svc.Exec(ctx, p, runtime.Stdio{Stdin: stdin, Stderr: failed})
	return b.toolError(ctx, err, func() error { return b.psqlError(name, failed, nil) })
}

func (b *build) psqlProcess(settings settingsOf, database, file string, stop bool) runtime.Process {
	args := []string{"psql", "-X", "-q", "-d", connString(database), "-f", file}
	if stop {
		args = append(args, "-v", "ON_ERROR_STOP=1")
	}
	return b.tool(settings, args...)
}

// psqlError is what ended psql: the last failure, for after it nothing is run. f is the filter of a dump, or nil.
func (b *build) psqlError(name string, failed *failures, f *filter) error {
	list, _ := failed.all()
	if len(list) == 0 {
		return b.hinted(&runtime.SourceError{File: name, Message: toolMessage(failed.out.String())})
	}
	last := list[len(list)-1]
	if f != nil {
		last.object = f.object(last.line)
	}
	return b.sourceError(name, last)
}

// connString names a database to a client program: a plain name may look like a connection string itself.
func connString(database string) string {
	return "dbname=" + connValue(database)
}

// tool is a client program that speaks English and logs in as superuser.
func (b *build) tool(settings settingsOf, args ...string) runtime.Process {
	return b.st.process(args, "LC_ALL=C", "PGUSER="+b.st.Admin, pgOptions(settings(major(b.st.Version))))
}

// toolError tells a program that ran and failed, which wrong makes an error
// in the sources, from one that could not be run, and from a dead server.
func (b *build) toolError(ctx context.Context, err error, wrong func() error) error {
	var exit *runtime.ExitError
	if err == nil || !errors.As(err, &exit) || ctx.Err() != nil {
		return err
	}
	select {
	case <-b.svc.Died():
		return b.diedError(ctx)
	default:
		return wrong()
	}
}

// sourced is how bash runs a script that is not executable: with what the
// official image's entrypoint offers to it.
const sourced = `set -Eeo pipefail
psql=( psql -v ON_ERROR_STOP=1 --no-psqlrc --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" )
docker_process_sql() { "${psql[@]}" "$@"; }
. "$0"`

// shell runs a shell script beside the server, as the server's user.
func (b *build) shell(ctx context.Context, kind, name string) error {
	info, err := os.Stat(b.hostPath(kind, name))
	if err != nil {
		return err
	}
	file := sourcePath(kind, name)
	args := []string{file}
	if info.Mode()&0o111 == 0 {
		// Alpine's images have bash, others may not.
		args = []string{"/bin/sh", "-c", `if [ -x /bin/bash ]; then exec /bin/bash -c "$1" "$0"; fi; set -e; . "$0"`, file, sourced}
	}
	vars := []string{"POSTGRES_USER=" + b.st.Admin, "POSTGRES_DB=" + b.st.DB, "POSTGRES_PASSWORD=" + b.st.Passwd,
		"PGUSER=" + b.st.Admin, "PGDATABASE=" + b.st.DB, "PGDATA=" + b.st.DataDir,
		pgOptions(patience(major(b.st.Version)))}
	for k, v := range b.src.Env {
		if !strings.HasPrefix(k, "POSTGRES_") {
			vars = append(vars, k+"="+v)
		}
	}
	var out tail
	p := runtime.Process{Args: args, Env: b.st.env(vars...), Cwd: "/", UID: b.st.UID, GID: b.st.GID}
	err = b.svc.Exec(ctx, p, runtime.Stdio{Stdout: &out, Stderr: &out})
	var exit *runtime.ExitError
	errors.As(err, &exit)
	return b.toolError(ctx, err, func() error {
		err := &runtime.SourceError{File: name, Message: fmt.Sprintf("exit code %d: %s", exit.Code, lastLines(out.String()))}
		return source.HintCRLF(b.hostPath(kind, name), err)
	})
}

func lastLines(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}
