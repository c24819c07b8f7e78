package containerd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/launch"
)

type fakeShims struct {
	err      error
	acquired int
}

func (f *fakeShims) Acquire(context.Context) (string, error) { f.acquired++; return "s1", f.err }
func (f *fakeShims) Release(context.Context, string) error   { f.acquired--; return nil }

// TestPlace: a container's place is known before anything of it is made, and the same for all: what talks to this process, too.
func TestPlace(t *testing.T) {
	ids := []specs.LinuxIDMapping{{HostID: 1 << 20, Size: idsOfClone}}
	users := &Users{IDs: launch.IDs{Users: ids, Groups: ids}}
	for name, tt := range map[string]struct {
		shims   *fakeShims
		users   *Users
		runtime string
	}{
		"shims with users":    {&fakeShims{}, users, ownRuntime},
		"shims without users": {&fakeShims{}, nil, ownRuntime},
		"runc with users":     {nil, users, "io.containerd.runc.v2"},
		"runc without users":  {nil, nil, "io.containerd.runc.v2"},
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{Users: tt.users}
			if tt.shims != nil {
				o.Shims = tt.shims
			}
			r := New(nil, o)
			for what, stdio := range map[string]*runtime.Stdio{"server": nil, "step of a build": {}} {
				record, err := r.place(t.Context(), runtime.Container{ID: "c", Process: runtime.Process{Args: []string{"x"}}, Stdio: stdio})
				if err != nil {
					t.Fatal(err)
				}
				if record.Runtime.Name != tt.runtime || (record.SandboxID == "s1") != (tt.shims != nil) {
					t.Errorf("%s: runtime %s, shim %q", what, record.Runtime.Name, record.SandboxID)
				}
				if got := strings.Contains(string(record.Spec.GetValue()), `"hostID":1048576`); got != (tt.users != nil) {
					t.Errorf("%s: users of its own: %t", what, got)
				}
			}
			if got := r.Isolation(); (got == nil) != (tt.users != nil) {
				t.Errorf("said of containers to come: %v", got)
			}
		})
	}
}

// TestNoShim: without a shim there is no container, and nothing of one: it does not go elsewhere.
func TestNoShim(t *testing.T) {
	r := New(nil, Options{Shims: &fakeShims{err: errors.New("containerd-shim-ctrsnap-v1: not found")}}) // no client: nobody is asked
	_, err := r.Create(t.Context(), runtime.Container{ID: "c", Process: runtime.Process{Args: []string{"x"}}})
	var h interface{ Hint() string }
	if err == nil || !strings.Contains(err.Error(), "not found") || !errors.As(err, &h) {
		t.Errorf("got %v", err)
	}
}

// TestRefused: what a shim does not do for the files that it was given is nobody's conflict.
func TestRefused(t *testing.T) {
	err := refused(fmt.Errorf("/proc is a link in the root filesystem: %w", errdefs.ErrFailedPrecondition))
	var h interface{ Hint() string }
	if errdefs.IsFailedPrecondition(err) || !errdefs.IsInternal(err) || !errors.As(err, &h) || !strings.Contains(h.Hint(), "image") {
		t.Errorf("got %v", err)
	}
	if other := errors.New("x"); !errors.Is(refused(other), other) || refused(nil) != nil {
		t.Error("other errors are changed")
	}
}
