package testsuite

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"

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
		MustAddTo(t, n, "ca", network.Options{Lease: "one"})
		add = list()
		mustAssign(t, n, "ca")
		MustRemove(t, n, "ca")
		all = list()
	})
	if len(add) == 0 {
		t.Fatal("an add has no steps")
	}
	return add, all
}

// mustAssign gives a namespace to another lease, with egress where that can be
// said.
func mustAssign(t testing.TB, n network.Provider, id string) {
	t.Helper()
	err := n.Assign(t.Context(), id, network.Options{Lease: "two", Egress: true})
	if errdefs.IsNotImplemented(err) {
		err = n.Assign(t.Context(), id, network.Options{Lease: "two"})
	}
	if err != nil {
		t.Fatal(err)
	}
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
			if _, err := n.Add(t.Context(), "ca", network.Options{Lease: "one"}); !errors.Is(err, boom) {
				t.Fatalf("add: %v", err)
			}
			if ids, err := n.Namespaces(t.Context()); len(ids) > 0 || err != nil {
				t.Errorf("namespaces left: %v, %v", ids, err)
			}
			agree(t)
		})
	}
}

// UndoAssign is a test of networks with steps in Assign: the old options hold
// after an error.
func UndoAssign(t *testing.T, open Open) {
	cfg := Setup(t)
	boom := errors.New("boom")
	var failing string
	cfg.Failpoint = func(step string) error {
		if step == failing {
			return boom
		}
		return nil
	}
	n := MustOpen(t, open, cfg)
	a, b := MustAddTo(t, n, "ca", network.Options{Lease: "one"}), MustAddTo(t, n, "cb", network.Options{Lease: "one"})
	port := EchoIn(t, b)
	for _, failing = range []string{"lease", "recorded"} {
		if err := n.Assign(t.Context(), "ca", network.Options{Lease: "two"}); !errors.Is(err, boom) {
			t.Errorf("assign: %v", err)
		}
		Inside(t, a, func() error { MustReach(t, "the lease", b.Addrs, port); return nil })
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
			agree(t)
			MustRemove(t, n, "ca")
			agree(t)
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

// agree compares rules with links, where the network has rules.
func agree(t testing.TB) {
	t.Helper()
	if len(Tables(t)) > 0 {
		MustAgree(t)
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
	_, err = n.Add(t.Context(), "ca", network.Options{Lease: "one"})
	if err == nil {
		mustAssign(t, n, "ca")
	}
	t.Fatalf("survived: %v, %v", err, n.Remove(t.Context(), "ca"))
}
