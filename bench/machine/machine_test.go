package machine_test

import (
	"context"
	"testing"

	"github.com/ctrsnap/ctrsnap/bench/machine"
)

func TestDescribe(t *testing.T) {
	m, err := machine.Before(t.Context(), t.TempDir(), true, map[string]string{"postgres": "15"})
	if err != nil {
		t.Fatal(err)
	}
	machine.After(t.Context(), &m)
	if m.Kernel == "" || m.CPUs < 1 || m.MemoryBytes < 1<<20 || m.Filesystem == "" || !m.Reflink || m.Versions["postgres"] != "15" {
		t.Errorf("got %+v", m)
	}
	for _, busy := range []float64{m.BusyBefore, m.BusyAfter} {
		if busy < 0 || busy > 1 {
			t.Errorf("busy %g", busy)
		}
	}
}

// Who is told to stop does not wait for a machine that works.
func TestRestEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	machine.Rest(ctx)
}
