package build

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

func calls(t *testing.T) []string {
	w := newWorld(t)
	w.engine = everything
	if _, _, err := w.run(t.Context(), full(w)); err != nil {
		t.Fatal(err)
	}
	return w.calls
}

func TestEachStepFails(t *testing.T) {
	for i, call := range calls(t) {
		t.Run(fmt.Sprintf("%d %s", i+1, call), func(t *testing.T) {
			w := newWorld(t)
			w.engine = everything
			w.onCall = func(n int, _ string) error {
				if n == i+1 {
					return errBoom
				}
				return nil
			}
			_, _, err := w.run(t.Context(), full(w))
			if committed := len(w.goldens) == 1; committed != (err == nil) {
				t.Errorf("committed=%v, error %v", committed, err)
			}
			if err != nil && !errors.Is(err, errBoom) {
				t.Errorf("other error: %v", err)
			}
			if err == nil && call != "store.Close" {
				t.Errorf("failure swallowed")
			}
			w.checkNothingLeft()
		})
	}
}

func TestCallerGoneAtEachStep(t *testing.T) {
	for i, call := range calls(t) {
		t.Run(fmt.Sprintf("%d %s", i+1, call), func(t *testing.T) {
			w := newWorld(t)
			w.engine = everything
			ctx, cancel := context.WithCancel(t.Context())
			w.onCall = func(n int, _ string) error {
				if n == i+1 {
					cancel()
				}
				return nil
			}
			start := time.Now()
			_, _, err := w.run(ctx, full(w))
			if committed := len(w.goldens) == 1; committed != (err == nil) {
				t.Errorf("committed=%v, error %v", committed, err)
			}
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("other error: %v", err)
			}
			if d := time.Since(start); d > 2*time.Second {
				t.Errorf("took %v", d)
			}
			w.checkNothingLeft()
		})
	}
}

func TestCallerGoneWhileCommandRuns(t *testing.T) {
	w := newWorld(t)
	w.engine = everything
	r := full(w)
	ctx, cancel := context.WithCancel(t.Context())
	var id, token string
	r.on = func(e api.BuildEvent) {
		if e.Type == api.EventID {
			id = e.BuildID
		}
		if e.Type == api.EventExec {
			token = e.Token
			cancel()
		}
	}
	if _, _, err := w.run(ctx, r); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	w.checkNothingLeft()
	if err := w.Answer(t.Context(), ada, id, api.HostResult{Token: token}); !errdefs.IsNotFound(err) {
		t.Errorf("late answer: %v", err)
	}
}

func TestFailureTellsWhy(t *testing.T) {
	for name, tc := range map[string]struct {
		engine func(ctx context.Context, wb runtime.Workbench, src runtime.Sources) (runtime.Built, error)
		check  func(t *testing.T, err error)
	}{
		"program": {
			func(ctx context.Context, wb runtime.Workbench, _ runtime.Sources) (b runtime.Built, err error) {
				return b, wb.Run(ctx, runtime.Process{Args: []string{"fail", "secret"}}, runtime.RunOpts{})
			},
			func(t *testing.T, err error) {
				var exit *runtime.ExitError
				if !errors.As(err, &exit) || exit.Code != 3 || exit.Command != "fail" {
					t.Errorf("no exit error: %v", err)
				}
				if !strings.Contains(err.Error(), "schema.sql:3: ERROR: no such table\nlast") {
					t.Errorf("no last lines: %v", err)
				}
			},
		},
		"command of the caller": {
			func(ctx context.Context, wb runtime.Workbench, _ runtime.Sources) (b runtime.Built, err error) {
				return b, wb.Host(ctx, "make seed", nil)
			},
			func(t *testing.T, err error) {
				var exit *runtime.ExitError
				if !errors.As(err, &exit) || exit.Code != 2 || exit.Command != "make seed" || exit.Output != "make: ***" {
					t.Errorf("no exit error: %+v", err)
				}
			},
		},
		"server that dies": {
			func(ctx context.Context, wb runtime.Workbench, _ runtime.Sources) (b runtime.Built, err error) {
				svc, err := wb.Serve(ctx, runtime.Process{Args: []string{"fail"}})
				if err != nil {
					return b, err
				}
				<-svc.Died()
				return b, svc.Stop(ctx, syscall.SIGTERM)
			},
			func(t *testing.T, err error) {
				if !strings.Contains(err.Error(), "stop server: fail: exit code 3: schema.sql:3") {
					t.Errorf("error: %v", err)
				}
			},
		},
		"own class and hint": {
			func(context.Context, runtime.Workbench, runtime.Sources) (b runtime.Built, err error) {
				return b, snapshot.WithHint(fmt.Errorf("other version: %w", errdefs.ErrInvalidArgument), "use 15")
			},
			func(t *testing.T, err error) {
				if !errdefs.IsInvalidArgument(err) || !strings.HasPrefix(hintOf(err), "use 15; the build log is ") {
					t.Errorf("%v, hint %q", err, hintOf(err))
				}
			},
		},
		"no space, said by a program": {
			func(context.Context, runtime.Workbench, runtime.Sources) (b runtime.Built, err error) {
				return b, &runtime.SourceError{File: "a.sql", Message: "could not extend file: No space left on device"}
			},
			func(t *testing.T, err error) {
				if !errdefs.IsResourceExhausted(err) || errdefs.IsInvalidArgument(err) || !strings.Contains(hintOf(err), "doctor") {
					t.Errorf("%v, hint %q", err, hintOf(err))
				}
			},
		},
		"file, by the caller's name": {
			func(_ context.Context, _ runtime.Workbench, src runtime.Sources) (b runtime.Built, err error) {
				return b, fmt.Errorf("run init script: %w", &runtime.SourceError{File: src.Init[0], Line: 3, Message: "no table"})
			},
			func(t *testing.T, err error) {
				var source *runtime.SourceError
				if !errors.As(err, &source) || source.File != "a.sql" || err.Error() != "build golden shop: run init script: a.sql:3: no table" {
					t.Errorf("error %v, file %+v", err, source)
				}
			},
		},
		"server left running": {
			func(ctx context.Context, wb runtime.Workbench, _ runtime.Sources) (b runtime.Built, err error) {
				_, err = wb.Serve(ctx, runtime.Process{Args: []string{"server"}})
				return b, err
			},
			func(t *testing.T, err error) {
				if !errdefs.IsInternal(err) {
					t.Errorf("error: %v", err)
				}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.engine = tc.engine
			r := shop()
			r.on = func(e api.BuildEvent) {
				if e.Type == api.EventExec {
					_ = w.Answer(context.Background(), ada, r.events[0].BuildID, api.HostResult{ExitCode: 2, Output: "make: ***\n", Token: e.Token})
				}
			}
			_, _, err := w.run(t.Context(), r)
			if err == nil || len(w.goldens) > 0 {
				t.Fatal("built", err)
			}
			tc.check(t, err)
			if log := filepath.Join(w.LogDir, r.events[0].BuildID+".log"); !strings.Contains(hintOf(err), log) {
				t.Errorf("no log in hint %q", hintOf(err))
			}
			if !strings.Contains(readLog(t, w, r), "failed: ") {
				t.Error("log does not say how it ended")
			}
			w.checkNothingLeft()
		})
	}
}

func hintOf(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}
