package described

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/engine/rootfs"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

const (
	// readyTimeout bounds the wait for a server that is neither ready nor dead.
	readyTimeout = time.Hour
	// buildDir takes files of the build, in the root filesystem; it is removed at the end.
	buildDir = "/ctrsnap/build"
	// liveName is the dump of a live database among the sources.
	liveName = ".live"
)

// build is one golden build.
type build struct {
	e   *Engine
	wb  runtime.Workbench
	src runtime.Sources
	svc runtime.Service // nil if no server runs
	st  served
	// loaded says that data came from elsewhere, and maybe databases and logins with them.
	loaded bool
}

// Build makes the database: data directory, first start, dump, scripts, commands of
// the caller, masks, shutdown. DESIGN.md tells the order.
func (e *Engine) Build(ctx context.Context, wb runtime.Workbench, src runtime.Sources) (built runtime.Built, err error) {
	b := &build{e: e, wb: wb, src: src, st: served{d: e.d, golden: src.Golden}}
	defer func() { err = errors.Join(err, b.kill(ctx)) }()
	for _, stage := range []func(context.Context) error{b.check, b.found, b.start, b.load, b.apply, b.finish} {
		if err := stage(ctx); err != nil {
			return built, err
		}
	}
	text, err := json.Marshal(b.st.state)
	if err != nil {
		return built, fmt.Errorf("write state: %w", err)
	}
	hot, err := b.st.fields().all(e.d.Server.Hot)
	return runtime.Built{EngineVersion: b.st.Version, State: text, Hot: hot}, err
}

// check refuses what the engine cannot do before anything is done.
func (b *build) check(context.Context) error {
	how := b.e.d.Build
	for _, name := range append(append([]string{b.src.Dump}, b.src.Init...), b.src.Mask...) {
		if name != "" && !filepath.IsLocal(name) {
			return fmt.Errorf("source %q is not a plain name: %w", name, errdefs.ErrInvalidArgument)
		}
	}
	for _, name := range slices.Concat(b.src.Init, b.src.Mask) {
		if _, _, err := b.script(name); err != nil {
			return err
		}
	}
	lacks := func(what string) error {
		return fmt.Errorf("engine %s has no %s: %w", b.e.d.Name, what, errdefs.ErrInvalidArgument)
	}
	switch {
	case b.src.Dump != "" && how.DumpFile == "" && len(how.Dump.Args) == 0:
		return lacks("dumps")
	case b.src.URL != "" && len(how.URL.Args) == 0:
		return lacks("way to dump a live database")
	case b.src.Dir && len(how.DirMarkers) == 0:
		return lacks("data directories to be copied")
	case b.src.Database != "" && !how.Database:
		return lacks("databases to choose from")
	case b.src.User != "" && how.User == "" || b.src.Password != "" && how.User == "":
		return lacks("users")
	case b.src.Dir && b.src.Parent != nil:
		return fmt.Errorf("a parent and a data directory at once: %w", errdefs.ErrInvalidArgument)
	case b.src.Parent != nil && how.DumpFile != "" && (b.src.Dump != "" || b.src.URL != ""):
		return fmt.Errorf("engine %s takes a dump in place of a parent's data, not beside it: %w", b.e.d.Name, errdefs.ErrInvalidArgument)
	}
	if b.src.URL != "" {
		if _, err := b.live(context.Background(), b.src.URL); err != nil {
			return err
		}
	}
	return b.st.checkSettings(b.src.Settings)
}

// root runs fn on the root filesystem under construction.
func (b *build) root(ctx context.Context, fn func(*rootfs.Root) error) error {
	return b.wb.Root(ctx, func(dir string) error {
		r, err := rootfs.Open(dir)
		if err != nil {
			return err
		}
		defer r.Close()
		return fn(r)
	})
}

// start starts the server, waits until it is ready, and makes the login.
func (b *build) start(ctx context.Context) error {
	b.wb.Step("start server")
	how := b.e.d
	p, err := b.st.server(how.Server.BuildArgs, merge(how.Settings.Build, b.src.Settings))
	if err != nil {
		return err
	}
	if b.svc, err = b.wb.Serve(ctx, p); err != nil {
		return fmt.Errorf("start server: %w", err)
	}
	wait, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	// The login may come with Build.Login: before it only a connection can be asked for.
	asked := b.e
	if len(how.Build.Login) > 0 {
		asked = &Engine{d: how}
	}
	err = asked.wait(wait, b.st, b.endpoint(), b.svc.Died())
	if errors.Is(err, errDied) {
		return b.diedError(ctx)
	}
	return err
}

// endpoint is the server's, with a way to run commands beside it.
func (b *build) endpoint() runtime.Endpoint {
	ep := b.svc.Endpoint()
	ep.Exec = func(ctx context.Context, p runtime.Process) (int, error) {
		err := b.svc.Exec(ctx, p, runtime.Stdio{})
		var exit *runtime.ExitError
		if errors.As(err, &exit) {
			return exit.Code, nil
		}
		return 0, err
	}
	return ep
}

// diedError says why the server ended, in its own words.
func (b *build) diedError(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout(b.e.d))
	defer cancel()
	err := b.svc.Stop(ctx, syscall.SIGKILL)
	b.svc = nil
	var exit *runtime.ExitError
	if !errors.As(err, &exit) {
		return errors.Join(errDied, err)
	}
	var class error = errdefs.ErrFailedPrecondition
	if len(b.src.Settings) > 0 || b.loaded {
		class = errdefs.ErrInvalidArgument
	}
	return fmt.Errorf("server: exit code %d: %s: %w", exit.Code, last(exit.Output), class)
}

// last returns the last lines of what a program wrote.
func last(output string) string {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	return strings.Join(lines[max(0, len(lines)-6):], "\n")
}

// kill ends a server that a failed build leaves.
func (b *build) kill(ctx context.Context) error {
	if b.svc == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout(b.e.d))
	defer cancel()
	err := b.svc.Stop(ctx, syscall.SIGKILL)
	b.svc = nil
	var exit *runtime.ExitError
	if errors.As(err, &exit) {
		return nil // of the signal
	}
	return err
}

// stop shuts the server down as the description says, and checks how it ended.
func (b *build) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout(b.e.d))
	defer cancel()
	err := b.svc.Stop(ctx, unix.SignalNum("SIG"+b.e.d.Server.StopSignal))
	b.svc = nil
	code := 0
	var exit *runtime.ExitError
	if errors.As(err, &exit) {
		code, err = exit.Code, nil
	}
	if err != nil {
		return fmt.Errorf("shut down server: %w", err)
	}
	if code != b.e.d.Server.ExitCode {
		return fmt.Errorf("shut down server: exit code %d: %s: %w", code, last(exitOutput(exit)), errdefs.ErrDataLoss)
	}
	return nil
}

func exitOutput(e *runtime.ExitError) string {
	if e == nil {
		return ""
	}
	return e.Output
}

// apply runs what refines the data: scripts, commands of the caller, masks.
func (b *build) apply(ctx context.Context) error {
	if err := b.chooseDatabase(ctx); err != nil {
		return err
	}
	if err := b.login(ctx); err != nil {
		return err
	}
	if err := b.scripts(ctx, "init", b.src.Init); err != nil {
		return err
	}
	if len(b.src.Exec) > 0 {
		c, err := b.st.connection(b.svc.Endpoint())
		if err != nil {
			return err
		}
		env := c.Env["tcp"]
		if env == nil {
			env = map[string]string{}
		}
		env["DATABASE_URL"] = c.URLs["tcp"]
		for _, command := range b.src.Exec {
			b.wb.Step("exec " + command)
			if err := b.wb.Host(ctx, command, env); err != nil {
				return sourceError(command, err)
			}
		}
	}
	return b.scripts(ctx, "mask", b.src.Mask)
}

// login makes the login, and tries it as a client of a clone does.
func (b *build) login(ctx context.Context) error {
	if err := b.steps(ctx, b.e.d.Build.Login); err != nil {
		return fmt.Errorf("make login: %w", err)
	}
	if err := b.e.ask(ctx, b.st, b.endpoint()); err != nil {
		return snapshot.WithHint(fmt.Errorf("log in as %q: %w", b.st.User, err), "--user, --password and --database choose others")
	}
	return nil
}

// chooseDatabase says which database clones are handed out with.
func (b *build) chooseDatabase(ctx context.Context) error {
	if !b.e.d.Build.Database || b.src.Parent != nil && b.st.DB != "" {
		return nil
	}
	if b.src.Database == "" && b.given("database") == "" && b.src.URL == "" && b.loaded && len(b.e.d.Build.Databases.Args) > 0 {
		var out strings.Builder
		if err := b.step(ctx, b.st.fields(), b.e.d.Build.Databases, runtime.Stdio{Stdout: &out}); err != nil {
			return fmt.Errorf("list databases: %w", err)
		}
		if names := strings.Fields(out.String()); len(names) == 1 {
			b.st.DB = names[0]
		}
	}
	if b.st.DB == "" {
		b.st.DB = b.database()
	}
	return nil
}

func (b *build) database() string {
	if b.src.Database != "" {
		return b.src.Database
	}
	if name := b.given("database"); name != "" {
		return name
	}
	return b.src.Golden
}

// given is what a variable of the build says, as official images know them.
func (b *build) given(what string) string {
	for _, k := range slices.Sorted(maps.Keys(b.e.d.Build.Env)) {
		if b.e.d.Build.Env[k] == what && b.src.Env[k] != "" {
			return b.src.Env[k]
		}
	}
	return ""
}

// finish makes a golden of the database.
func (b *build) finish(ctx context.Context) error {
	if err := b.login(ctx); err != nil { // scripts may have changed it
		return err
	}
	if err := b.steps(ctx, b.e.d.Build.Finish); err != nil {
		return fmt.Errorf("finish: %w", err)
	}
	b.wb.Step("shut down")
	if err := b.stop(ctx); err != nil {
		return err
	}
	for _, s := range b.e.d.Build.Verify {
		if err := b.run(ctx, b.st.fields(), s); err != nil {
			return fmt.Errorf("verify shutdown: %w: %w", err, errdefs.ErrDataLoss)
		}
	}
	return b.root(ctx, b.clean)
}

// clean checks what a clean shutdown leaves, and removes what the build needed.
func (b *build) clean(r *rootfs.Root) error {
	f := b.st.fields()
	for _, list := range []struct {
		names []string
		want  bool
	}{{b.e.d.Server.Absent, false}, {b.e.d.Server.Present, true}} {
		names, err := f.all(list.names)
		if err != nil {
			return err
		}
		for _, name := range names {
			file, err := r.Open(name, unix.O_PATH)
			if err == nil {
				file.Close()
			}
			if (err == nil) != list.want {
				return fmt.Errorf("check shutdown: %s: there %t, want %t: %w", name, err == nil, list.want, errdefs.ErrDataLoss)
			}
		}
	}
	dir, err := r.Dir(filepath.Dir(buildDir))
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	return dir.RemoveAll(filepath.Base(buildDir))
}

// steps runs commands beside the server.
func (b *build) steps(ctx context.Context, steps []Step) error {
	for _, s := range steps {
		if err := b.step(ctx, b.st.fields(), s, runtime.Stdio{}); err != nil {
			return err
		}
	}
	return nil
}

func (b *build) step(ctx context.Context, f Fields, s Step, stdio runtime.Stdio) error {
	p, in, err := b.command(f, s)
	if err != nil {
		return err
	}
	if stdio.Stdin == nil && in != "" {
		stdio.Stdin = strings.NewReader(in)
	}
	return b.svc.Exec(ctx, p, stdio)
}

// run runs a command where no server runs.
func (b *build) run(ctx context.Context, f Fields, s Step) error {
	p, in, err := b.command(f, s)
	if err != nil {
		return err
	}
	return b.wb.Run(ctx, p, runtime.RunOpts{Stdio: runtime.Stdio{Stdin: strings.NewReader(in)}})
}

func (b *build) command(f Fields, s Step) (runtime.Process, string, error) {
	p, err := b.st.process(f, s.Args, merge(b.e.d.Build.StepEnv, s.Env))
	if err != nil {
		return p, "", err
	}
	in, err := f.expand(s.Stdin)
	return p, in, err
}

// lineRE finds the line of a script in a client's message.
var lineRE = regexp.MustCompile(`at line ([0-9]+)`)

// sourceError makes a command that ran and failed an error in the sources.
func sourceError(name string, err error) error {
	var exit *runtime.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	e := &runtime.SourceError{File: name, Message: fmt.Sprintf("exit code %d", exit.Code)}
	if exit.Output != "" {
		e.Message += ": " + last(exit.Output)
	}
	if m := lineRE.FindStringSubmatch(e.Message); m != nil {
		_, _ = fmt.Sscan(m[1], &e.Line) // digits
	}
	return e
}

// hostPath is the host's path of a source.
func (b *build) hostPath(elem ...string) string {
	return filepath.Join(append([]string{b.wb.SourceDir()}, elem...)...)
}

// open opens a source that is a regular file.
func (b *build) open(kind, name string) (*os.File, error) {
	r, err := rootfs.Open(b.wb.SourceDir())
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return r.File("/" + kind + "/" + name)
}

// live reads the URL of a live database. Its errors do not show it.
func (b *build) live(ctx context.Context, text string) (Fields, error) {
	f := b.st.fields()
	schemes := b.e.d.Build.URLSchemes
	u, err := url.Parse(text)
	if err != nil || !slices.Contains(schemes, u.Scheme) || u.Hostname() == "" {
		return f, snapshot.WithHint(fmt.Errorf("url of live database: no URL of %s: %w", b.e.d.Name, errdefs.ErrInvalidArgument),
			"write "+schemes[0]+"://USER:PASSWORD@HOST:PORT/DATABASE")
	}
	f.URLHost, f.URLPort, f.URLDatabase = u.Hostname(), u.Port(), strings.TrimPrefix(u.Path, "/")
	if f.URLPort == "" {
		f.URLPort = f.Port
	}
	if u.User != nil {
		f.URLUser = u.User.Username()
		f.URLPassword, _ = u.User.Password()
	}
	f.URLHost = address(ctx, f.URLHost)
	return f, nil
}
