package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/rundir"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// bench is the Workbench of one build. One thing at a time has the root
// filesystem under construction: the host, or one container.
type bench struct {
	*job
	build  snapshot.Build
	holder string // what has the root filesystem; "" nothing
	netns  *network.Namespace
	server *service // the last one served
	closed bool
	lines  *lineWriter // of the engine
}

var _ runtime.Workbench = (*bench)(nil)

// maxWarnings is how many of a build's warnings its caller is told and its golden remembers.
const maxWarnings = 100

// mountDir is where the root filesystem is mounted below RunDir/ID, which is root's alone: who may read a golden is said
// when it is done.
const mountDir = "mnt"

func (b *Builder) dirs() rundir.Dirs { return rundir.Dirs{Path: b.RunDir, Memory: b.Memory} }

func (b *Builder) mountPoint(id string) string {
	return filepath.Join(b.dirs().Dir(id), mountDir, "root")
}

// openBench opens the build in the store and makes the directories.
func (j *job) openBench(ctx context.Context) (*bench, error) {
	if err := j.fail("begin"); err != nil {
		return nil, err
	}
	sb, err := j.Store.Begin(ctx, j.id, j.base.Snapshot)
	if err != nil {
		return nil, err
	}
	w := &bench{job: j, build: sb, lines: &lineWriter{emit: j.out.log}}
	j.undo.Add("close build", sb.Close)
	j.undo.Add("close workbench", w.close)
	err = j.dirs().Open()
	if err == nil {
		err = j.dirs().Make(j.id)
	}
	if err == nil {
		err = os.MkdirAll(j.mountPoint(j.id), 0o700)
	}
	if err != nil {
		return nil, err
	}
	return w, j.fail("bench")
}

// take makes what the holder of the root filesystem.
func (w *bench) take(what string) error {
	if w.holder != "" {
		return fmt.Errorf("%s: %s has the root filesystem: %w", what, w.holder, errdefs.ErrFailedPrecondition)
	}
	w.holder = what
	return nil
}

// Root implements [runtime.Workbench].
func (w *bench) Root(ctx context.Context, fn func(dir string) error) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := w.take("mount"); err != nil {
		return err
	}
	dir := w.mountPoint(w.id)
	defer func() {
		if uerr := w.unmount(dir, 0); uerr != nil {
			err = errors.Join(err, fmt.Errorf("unmount root filesystem: %w", uerr))
			return
		}
		w.holder = ""
	}()
	if err := w.mount(w.build.Mounts(), dir); err != nil {
		return fmt.Errorf("mount root filesystem: %w", err)
	}
	return fn(dir)
}

// SourceDir implements [runtime.Workbench].
func (w *bench) SourceDir() string { return w.spoolDir() }

// Step implements [runtime.Workbench].
func (w *bench) Step(name string) { w.out.step(name) }

// Progress implements [runtime.Workbench].
func (w *bench) Progress(done, total int64) { w.out.report(done, total) }

// Log implements [runtime.Workbench].
func (w *bench) Log() io.Writer { return w.lines }

// Warn implements [runtime.Workbench].
func (w *bench) Warn(text string) {
	text = fmt.Sprintf("%.500s", strings.NewReplacer(w.names...).Replace(text))
	switch {
	case len(w.warnings) == maxWarnings:
		text = "there is more to say: see the build log"
	case len(w.warnings) > maxWarnings:
		w.out.note("warning: " + text + "\n")
		return
	}
	w.warnings = append(w.warnings, text)
	w.out.warn(text)
}

// Host implements [runtime.Workbench]. The caller shows what its command
// writes; its last lines come with the answer.
func (w *bench) Host(ctx context.Context, command string, env map[string]string) error {
	var r api.HostResult
	err := w.turn.without(ctx, func() (err error) {
		r, err = w.asks.ask(ctx, func(token string) { w.out.exec(command, env, token) })
		return err
	})
	if err != nil {
		return fmt.Errorf("run %q on the caller's host: %w", command, err)
	}
	var last tail
	last.add(r.Output)
	if text := last.String(); text != "" {
		w.out.note(text + "\n")
	}
	if r.ExitCode != 0 {
		return &runtime.ExitError{Command: command, Code: r.ExitCode, Output: last.String()}
	}
	return nil
}

// finish ends the work on the root filesystem before it is committed.
func (w *bench) finish(ctx context.Context) error {
	if w.holder != "" {
		return fmt.Errorf("engine %s has finished, but %s still has the root filesystem: %w",
			w.engine.Name(), w.holder, errdefs.ErrInternal)
	}
	return w.close(ctx)
}

// close removes containers, network namespace, mounts and directories. It is
// idempotent. Each step is taken whatever the others return, but nothing is
// deleted below a mount point that could not be freed.
func (w *bench) close(ctx context.Context) error {
	if w.closed {
		return nil
	}
	ctx, cancel := undoContext(ctx)
	defer cancel()
	w.lines.Close()
	err := errors.Join(w.remove(ctx), w.removeNetwork(ctx), w.removeRunDir(w.id))
	w.closed = err == nil
	return err
}

func (w *bench) removeNetwork(ctx context.Context) error {
	if err := w.Network.Remove(ctx, w.id); err != nil {
		return fmt.Errorf("remove network namespace %s: %w", w.id, err)
	}
	return nil
}

// removeRunDir unmounts what is mounted in the directory of a build and removes it. The mount
// point is removed by itself and must be empty: a root filesystem that could
// not be unmounted is not deleted.
func (b *Builder) removeRunDir(id string) error {
	root := b.mountPoint(id)
	if err := b.unmount(root, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", root, err)
	}
	if err := os.Remove(root); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return b.dirs().Remove(id)
}

// command names a process for people. Arguments may hold passwords.
func command(p runtime.Process) string {
	return strings.TrimSpace(filepath.Base(append(p.Args, "")[0]))
}
