package described

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
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
	case len(b.src.Before) > 0:
		return fmt.Errorf("engine %s takes one dump: %w", b.e.d.Name, errdefs.ErrInvalidArgument)
	case b.src.GoOn:
		return lacks("way to go on after errors of a dump")
	case b.src.Login != "":
		return lacks("logins to choose from; --user names one")
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
		if _, err := b.live(b.src.URL); err != nil {
			return err
		}
	}
	return b.st.checkSettings(b.src.Settings)
}

// hostPath is the host's path of a source.
func (b *build) hostPath(elem ...string) string {
	return filepath.Join(append([]string{b.wb.SourceDir()}, elem...)...)
}
