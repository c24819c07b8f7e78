package postgres

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime"
)

const (
	// readyTimeout bounds the wait for a server that is neither ready nor
	// dead. Crash recovery of a big data directory takes minutes.
	readyTimeout = time.Hour
	// stopTimeout bounds the last checkpoint and the shutdown.
	stopTimeout = 10 * time.Minute
	// maxJobs bounds the parallelism of restores.
	maxJobs = 8
)

// build is one golden build.
type build struct {
	wb  runtime.Workbench
	src runtime.Sources
	svc runtime.Service // the server under construction, nil if none runs
	st  state           // what the golden will remember
	hot []string        // see runtime.Built
	// cluster says that roles and databases come with the data.
	cluster bool
	// socketDir says that the server has a socket in imageSocketDir as well.
	socketDir bool
}

// Build makes the database. The order is that of DESIGN.md: cluster, dump,
// scripts, commands of the caller, masks, and then what makes it a golden.
func (*Engine) Build(ctx context.Context, wb runtime.Workbench, src runtime.Sources) (built runtime.Built, err error) {
	b := &build{wb: wb, src: src}
	defer func() { err = errors.Join(err, b.kill(ctx, err)) }()
	if err := b.check(); err != nil {
		return built, err
	}
	for _, stage := range []func(context.Context) error{
		b.found, b.load, b.apply, b.mask, b.finish,
	} {
		if err := stage(ctx); err != nil {
			return built, err
		}
	}
	text, err := json.Marshal(b.st)
	if err != nil {
		return built, fmt.Errorf("write state: %w", err)
	}
	return runtime.Built{EngineVersion: b.st.Version, State: text, Hot: b.hot}, nil
}

// check refuses names that lead out of the sources, and what makes no sense
// together, before anything is done.
func (b *build) check() error {
	for _, name := range slices.Concat([]string{b.src.Dump}, b.src.Before, b.src.Init, b.src.Mask) {
		if name != "" && !filepath.IsLocal(name) {
			return fmt.Errorf("source %q is not a plain name: %w", name, errdefs.ErrInvalidArgument)
		}
	}
	if b.src.Dir && b.src.Parent != nil {
		return fmt.Errorf("a parent and a data directory at once: %w", errdefs.ErrInvalidArgument)
	}
	if b.src.URL != "" {
		if _, err := parseLive(b.src.URL); err != nil {
			return err
		}
	}
	return b.st.checkSettings(b.src.Settings)
}

// load brings in the data of a dump or a live database.
func (b *build) load(ctx context.Context) error {
	switch {
	case b.src.URL != "":
		return b.restoreLive(ctx)
	case b.src.Dump != "":
		for _, name := range append(slices.Clone(b.src.Before), b.src.Dump) {
			if err := b.restoreDump(ctx, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// apply runs what refines the data: scripts, then commands of the caller.
func (b *build) apply(ctx context.Context) error {
	if err := b.chooseDatabase(ctx); err != nil {
		return err
	}
	if err := b.scripts(ctx, "init", b.src.Init); err != nil {
		return err
	}
	if len(b.src.Exec) == 0 {
		return nil
	}
	if err := b.login(ctx); err != nil {
		return err
	}
	c := b.st.connection(b.svc.Endpoint())
	env := c.Env["tcp"]
	env["DATABASE_URL"] = c.URLs["tcp"]
	for _, command := range b.src.Exec {
		b.wb.Step("exec " + command)
		if err := b.wb.Host(ctx, command, env); err != nil {
			return commandError(err)
		}
	}
	return nil
}

// commandError makes a command of the caller that failed an error in the sources.
func commandError(err error) error {
	var exit *runtime.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	msg := fmt.Sprintf("exit code %d", exit.Code)
	if exit.Output != "" {
		msg += ": " + exit.Output
	}
	return &runtime.SourceError{File: exit.Command, Message: msg}
}

// buildSettings load fast: what is lost in a crash is built again.
func buildSettings(version int) map[string]string {
	mem := memory()
	s := map[string]string{
		"fsync":                           "off",
		"full_page_writes":                "off",
		"synchronous_commit":              "off",
		"wal_level":                       "minimal",
		"max_wal_senders":                 "0",
		"archive_mode":                    "off",
		"wal_init_zero":                   "off",
		"wal_recycle":                     "off", // old segments hold old data, and are gone with the next checkpoint
		"max_wal_size":                    "4GB",
		"min_wal_size":                    "32MB",
		"checkpoint_timeout":              "1h",
		"checkpoint_completion_target":    "0",
		"shared_buffers":                  fmt.Sprintf("%dMB", clamp(mem/16, 64, 512)),
		"maintenance_work_mem":            fmt.Sprintf("%dMB", clamp(mem/8/int64(jobs()), 64, 1024)),
		"huge_pages":                      "off",
		"autovacuum":                      "off",
		"max_logical_replication_workers": "0",
		"log_destination":                 "stderr",
		"logging_collector":               "off",
		"log_checkpoints":                 "off",
		"log_statement":                   "none", // scripts may hold passwords
		"ssl":                             "off",
		"ssl_cert_file":                   certFile, // of who asks for ssl=on
		"ssl_key_file":                    keyFile,
	}
	if version >= 13 {
		s["wal_keep_size"] = "0"
	} else {
		s["wal_keep_segments"] = "0"
	}
	return s
}

func jobs() int { return max(1, min(goruntime.NumCPU(), maxJobs)) }

func clamp(n, low, high int64) int64 { return max(low, min(n, high)) }

// memory is the machine's memory in MB.
func memory() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 1024
	}
	return int64(info.Totalram) * int64(info.Unit) >> 20
}

// start serves the data directory and waits until it is ready.
func (b *build) start(ctx context.Context) error {
	return b.serve(ctx, b.st.server(b.settings()), pidFile.ready)
}

// settings are those of the server under construction: what the golden's clones
// will not start with, the build does not either.
func (b *build) settings() map[string]string {
	settings := buildSettings(major(b.st.Version))
	override(settings, b.src.Settings)
	maps.Copy(settings, b.st.contract())
	if b.socketDir {
		settings["unix_socket_directories"] = imageSocketDir + "," + runtime.SocketDir
	}
	return settings
}

func (b *build) serve(ctx context.Context, p runtime.Process, ready func(pidFile) bool) error {
	svc, err := b.wb.Serve(ctx, p)
	if err != nil {
		return fmt.Errorf("start server: %w", err)
	}
	b.svc = svc
	wait, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	wait, stop := untilDied(wait, svc.Died())
	defer stop()
	err = waitPidFile(wait, svc.Endpoint().PID, b.st.DataDir, ready)
	if err == nil || ctx.Err() != nil {
		return err
	}
	if errors.Is(context.Cause(wait), errDied) {
		return b.diedError(ctx)
	}
	return fmt.Errorf("wait for server: %w", cause(wait, err))
}

// diedError says why the server ended, in its own words.
func (b *build) diedError(ctx context.Context) error {
	err := b.kill(ctx, errDied)
	var exit *runtime.ExitError
	if errors.As(err, &exit) {
		var class error = errdefs.ErrFailedPrecondition
		if len(b.src.Settings) > 0 { // the data have started without them, or there were none
			class = errdefs.ErrInvalidArgument
		}
		return fmt.Errorf("server: %s: %w", serverMessage(exit.Output), class)
	}
	return errors.Join(errDied, err)
}

// kill ends a server that a failed build leaves. The server's exit code is no
// error then, unless it is asked for: cause is errDied.
func (b *build) kill(ctx context.Context, because error) error {
	if b.svc == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	err := b.svc.Stop(ctx, syscall.SIGKILL)
	b.svc = nil
	var exit *runtime.ExitError
	if errors.As(err, &exit) && !errors.Is(because, errDied) {
		return nil
	}
	return err
}

// admin connects to the server as a superuser, by its socket.
func (b *build) admin(ctx context.Context, database, encoding string) (*pgconn.PgConn, error) {
	cfg, err := config(b.st.Admin, "", database)
	if err != nil {
		return nil, err
	}
	maps.Copy(cfg.RuntimeParams, own(major(b.st.Version)))
	cfg.RuntimeParams["client_encoding"] = cmp.Or(encoding, "UTF8")
	dir := b.svc.Endpoint().SocketDir
	cfg.DialFunc, cfg.BuildFrontend = dialer(dir), buildFrontend
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to database %s: %w", database, err)
	}
	return conn, nil
}

// query runs SQL as a superuser and returns the first column of its rows.
func (b *build) query(ctx context.Context, database, sql string) ([]string, error) {
	return b.queryAs(ctx, database, "UTF8", sql)
}

// queryAs is query with SQL in an encoding; "" is UTF8.
func (b *build) queryAs(ctx context.Context, database, encoding, sql string) ([]string, error) {
	conn, err := b.admin(ctx, database, encoding)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is under way
	return column(conn.Exec(ctx, sql).ReadAll())
}

func column(results []*pgconn.Result, err error) ([]string, error) {
	if err != nil {
		return nil, err
	}
	var values []string
	for _, r := range results {
		for _, row := range r.Rows {
			if len(row) == 0 { // no server of PostgreSQL's answers so
				return nil, errors.New("a row without columns")
			}
			values = append(values, string(row[0]))
		}
	}
	return values, nil
}

// ident and literal quote for SQL, see the PostgreSQL manual, "Lexical
// Structure". standard_conforming_strings is on in all versions served.
func ident(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
func literal(s string) string {
	// The form with E is right whatever a database has set.
	return `E'` + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(s) + `'`
}

// sourcePath is a source's path in the container, hostPath the same on the host.
func sourcePath(kind, name string) string { return runtime.SourceDir + "/" + kind + "/" + name }

func (b *build) hostPath(elem ...string) string {
	return filepath.Join(append([]string{b.wb.SourceDir()}, elem...)...)
}
