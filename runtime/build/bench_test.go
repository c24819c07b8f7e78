package build

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/engine/dial"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

func TestOneHolderOfTheRoot(t *testing.T) {
	w := newWorld(t)
	run := func(ctx context.Context, wb runtime.Workbench) error {
		return wb.Run(ctx, runtime.Process{Args: []string{"true"}}, runtime.RunOpts{})
	}
	root := func(ctx context.Context, wb runtime.Workbench) error {
		return wb.Root(ctx, func(string) error { return nil })
	}
	serve := func(ctx context.Context, wb runtime.Workbench) error {
		_, err := wb.Serve(ctx, runtime.Process{Args: []string{"server"}})
		return err
	}
	w.engine = func(ctx context.Context, wb runtime.Workbench, _ runtime.Sources) (b runtime.Built, err error) {
		refused := func(during string) {
			for _, fn := range []func(context.Context, runtime.Workbench) error{run, root, serve} {
				if err := fn(ctx, wb); !errdefs.IsFailedPrecondition(err) {
					t.Errorf("during %s: %v", during, err)
				}
			}
		}
		_ = wb.Root(ctx, func(string) error { refused("Root"); return nil })
		svc, err := wb.Serve(ctx, runtime.Process{Args: []string{"server"}})
		if err != nil {
			return b, err
		}
		refused("Serve")
		if err := svc.Stop(ctx, syscall.SIGTERM); err != nil {
			return b, err
		}
		if err := svc.Stop(ctx, syscall.SIGTERM); err != nil {
			t.Errorf("second stop: %v", err)
		}
		// A second server has the same namespace.
		svc, err = wb.Serve(ctx, runtime.Process{Args: []string{"server"}})
		if err != nil {
			return b, err
		}
		if ep := svc.Endpoint(); ep.Addr.String() != "10.1.2.3" || ep.PID != 4242 {
			t.Errorf("endpoint %+v", ep)
		}
		if err := svc.Stop(ctx, syscall.SIGTERM); err != nil {
			return b, err
		}
		return b, errors.Join(run(ctx, wb), root(ctx, wb))
	}
	if _, _, err := w.run(t.Context(), shop()); err != nil {
		t.Fatal(err)
	}
	w.checkNothingLeft()
}

func TestStopKillsWhenPatienceEnds(t *testing.T) {
	w := newWorld(t)
	w.programs["deaf"] = func(f fakeIO) int { <-f.kill; return 137 }
	w.engine = func(ctx context.Context, wb runtime.Workbench, _ runtime.Sources) (b runtime.Built, err error) {
		svc, err := wb.Serve(ctx, runtime.Process{Args: []string{"deaf"}})
		if err != nil {
			return b, err
		}
		ctx, cancel := context.WithTimeout(ctx, time.Millisecond)
		defer cancel()
		if err := svc.Stop(ctx, syscall.SIGTERM); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("stop: %v", err)
		}
		<-svc.Died()
		return b, wb.Root(context.WithoutCancel(ctx), func(string) error { return nil })
	}
	if _, _, err := w.run(t.Context(), shop()); err != nil {
		t.Fatal(err)
	}
	w.checkNothingLeft()
}

func TestWhatIsLogged(t *testing.T) {
	w := newWorld(t)
	var data, both strings.Builder
	w.engine = func(ctx context.Context, wb runtime.Workbench, _ runtime.Sources) (b runtime.Built, err error) {
		echo := func(what string, stdio runtime.Stdio) error {
			return wb.Run(ctx, runtime.Process{Args: []string{"echo", what}}, runtime.RunOpts{Stdio: stdio})
		}
		return b, errors.Join(
			echo("to nobody", runtime.Stdio{}),
			echo("as data", runtime.Stdio{Stdout: &data}),
			echo("with stderr", runtime.Stdio{Stdout: &both, Stderr: &both}),
		)
	}
	r := shop()
	if _, _, err := w.run(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if data.String() != "as data\n" || both.String() != "with stderr\n" {
		t.Errorf("data %q, both %q", data.String(), both.String())
	}
	log := readLog(t, w, r)
	if !strings.Contains(log, "to nobody\n") || !strings.Contains(log, "with stderr\n") || strings.Contains(log, "as data") {
		t.Errorf("log:\n%s", log)
	}
}

func TestContainer(t *testing.T) {
	w := newWorld(t)
	var got []runtime.Container
	w.programs["look"] = func(f fakeIO) int {
		got = append(got, f.c)
		for _, m := range f.c.Mounts {
			fi, err := os.Stat(m.Source)
			if err != nil {
				t.Error(err)
				continue
			}
			if m.Destination == runtime.SocketDir && fi.Mode().Perm() != 0o777 {
				t.Errorf("socket directory for root is %v", fi.Mode())
			}
			if m.Destination == runtime.SourceDir && fi.Mode().Perm() != 0o755 {
				t.Errorf("source directory is %v", fi.Mode())
			}
		}
		return 0
	}
	w.engine = func(ctx context.Context, wb runtime.Workbench, _ runtime.Sources) (b runtime.Built, err error) {
		p := runtime.Process{Args: []string{"look"}}
		svc, err := wb.Serve(ctx, p)
		if err != nil {
			return b, err
		}
		return b, errors.Join(svc.Stop(ctx, syscall.SIGTERM),
			wb.Run(ctx, p, runtime.RunOpts{}), wb.Run(ctx, p, runtime.RunOpts{Reach: netip.MustParseAddr("192.0.2.9")}))
	}
	r := shop()
	if _, _, err := w.run(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	id := r.events[0].BuildID
	for i, netns := range []string{"/netns/" + id, "", "/netns/" + id} {
		c := got[i]
		rootfs, err := c.Rootfs(t.Context())
		if err != nil || c.ID != id || c.NetNS != netns || c.Labels[snapshot.LabelKind] != snapshot.KindBuild || rootfs[0].Source != id {
			t.Errorf("container %+v, root %v, %v", c, rootfs, err)
		}
	}
}

func TestWarningsAreBounded(t *testing.T) {
	w := newWorld(t)
	w.engine = func(ctx context.Context, wb runtime.Workbench, src runtime.Sources) (runtime.Built, error) {
		for range 3 * maxWarnings {
			wb.Warn(strings.Repeat("x", 1000))
		}
		return everything(ctx, wb, src)
	}
	r := shop()
	g, _, err := w.run(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	told := 0
	for _, e := range r.events {
		if e.Type == api.EventWarning {
			told++
		}
	}
	if len(g.Warnings) != maxWarnings+1 || told != maxWarnings+1 || len(g.Warnings[0]) != 500 {
		t.Errorf("%d warnings of %d bytes are remembered, %d told", len(g.Warnings), len(g.Warnings[0]), told)
	}
	if !strings.Contains(g.Warnings[maxWarnings], "build log") {
		t.Errorf("the last warning: %s", g.Warnings[maxWarnings])
	}
}

// TestEndlessAnswer: who takes what a program writes has had enough: it ends, though it waits to be read from, and the reason is told.
func TestEndlessAnswer(t *testing.T) {
	for _, waits := range []bool{true, false} {
		w := newWorld(t)
		w.programs["endless"] = func(f fakeIO) int {
			for {
				if _, err := f.out.Write(make([]byte, 1000)); err != nil {
					break
				}
			}
			if waits && f.p.UID == 0 {
				<-f.kill
			}
			return 0
		}
		w.engine = func(ctx context.Context, wb runtime.Workbench, _ runtime.Sources) (b runtime.Built, err error) {
			p := runtime.Process{Args: []string{"endless"}}
			stdio := runtime.Stdio{Stdout: &dial.Answer{Limit: 1 << 20}}
			if err := wb.Run(ctx, p, runtime.RunOpts{Stdio: stdio}); !errdefs.IsInvalidArgument(err) {
				t.Errorf("run: %v", err)
			}
			svc, err := wb.Serve(ctx, runtime.Process{Args: []string{"server"}})
			if err != nil {
				return b, err
			}
			p.UID = 1
			if err := svc.Exec(ctx, p, stdio); !errdefs.IsInvalidArgument(err) {
				t.Errorf("exec: %v", err)
			}
			return b, svc.Stop(ctx, syscall.SIGTERM)
		}
		if _, _, err := w.run(t.Context(), shop()); err != nil {
			t.Error(err)
		}
	}
}
