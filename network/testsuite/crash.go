package testsuite

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/ctrsnap/ctrsnap/network"
)

// steps lists what an add and a removal go through.
func steps(t *testing.T, open Open) (add, all []string) {
	t.Helper()
	var (
		mu   sync.Mutex
		seen []string
	)
	list := func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(seen)
	}
	t.Run("steps", func(t *testing.T) {
		cfg := Setup(t)
		cfg.Failpoint = func(step string) error {
			mu.Lock()
			defer mu.Unlock()
			if !slices.Contains(seen, step) {
				seen = append(seen, step)
			}
			return nil
		}
		n := MustOpen(t, open, cfg)
		MustAdd(t, n, "ca")
		add = list()
		MustRemove(t, n, "ca")
		all = list()
	})
	if len(add) == 0 {
		t.Fatal("an add has no steps")
	}
	return add, all
}

func testUndo(t *testing.T, open Open) {
	add, _ := steps(t, open)
	boom := errors.New("boom")
	for _, fail := range add {
		t.Run(fail, func(t *testing.T) {
			cfg := Setup(t)
			cfg.Failpoint = func(step string) error {
				if step == fail {
					return boom
				}
				return nil
			}
			n := MustOpen(t, open, cfg)
			if _, err := n.Add(t.Context(), "ca", network.Options{}); !errors.Is(err, boom) {
				t.Fatalf("add: %v", err)
			}
			if ids, err := n.Namespaces(t.Context()); len(ids) > 0 || err != nil {
				t.Errorf("namespaces left: %v, %v", ids, err)
			}
		})
	}
}

// testCrash kills a process before each step, and has another take over.
func testCrash(t *testing.T, open Open) {
	_, all := steps(t, open)
	for _, step := range all {
		t.Run(step, func(t *testing.T) {
			cfg := Setup(t)
			cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestCrashChild$")
			cmd.Env = append(os.Environ(), "CRASH_STEP="+step, "CRASH_STATE="+cfg.StateDir)
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("child: %v\n%s", err, out)
			}
			n := MustOpen(t, open, cfg)
			if ids, err := n.Namespaces(t.Context()); err != nil || len(ids) > 1 {
				t.Errorf("namespaces after the crash: %v, %v", ids, err)
			}
			MustRemove(t, n, "ca")
			if ids, err := n.Namespaces(t.Context()); err != nil || len(ids) > 0 {
				t.Errorf("namespaces left: %v, %v", ids, err)
			}
			if err := n.Reconcile(t.Context(), nil); err != nil {
				t.Error(err)
			}
			if err := Dial(Serve(t, MustAdd(t, n, "ca"))); err != nil {
				t.Error(err)
			}
		})
	}
}

// CrashChild is the process that the suite kills. In other runs it skips.
func CrashChild(t *testing.T, open Open) {
	if os.Getenv("CRASH_STEP") == "" {
		t.Skip("only runs as the child of a crash test")
	}
	n, _, err := open(t.Context(), Config{
		StateDir: os.Getenv("CRASH_STATE"),
		Failpoint: func(step string) error {
			if step == os.Getenv("CRASH_STEP") {
				return syscall.Kill(os.Getpid(), syscall.SIGKILL)
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = n.Add(t.Context(), "ca", network.Options{})
	t.Fatalf("survived: %v, %v", err, n.Remove(t.Context(), "ca"))
}
