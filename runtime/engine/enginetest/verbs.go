package enginetest

import (
	"strings"
	"testing"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// verbs: those that reach into a clone, a pool, and limits.
func (r runner) verbs(t *testing.T) {
	if got := r.Run(t, "exec", r.First(), "--", "/bin/sh", "-c", "echo in"); got != "in" {
		t.Errorf("exec prints %q", got)
	}
	r.Run(t, "logs", r.First())
	r.Run(t, "inspect", r.First())
	_, want := Seed(0)
	if got := r.Run(t, append([]string{"connect", r.First(), "--"}, r.Client...)...); !strings.Contains(got, want) {
		t.Errorf("connect prints %q, want %q in it", got, want)
	}
	r.Run(t, "pool", "set", r.golden, "--size", "1")
	r.filled(t)
	c := r.Clone(t, r.golden)
	if c.Timings[api.StageClaim] == 0 {
		t.Errorf("not from the pool: %v", c.Timings)
	}
	checkSeed(t, r.open(t, c))
	r.Run(t, "pool", "set", r.golden, "--size", "0")
	r.Run(t, "rm", c.ID)
}

// filled waits for the one member of the pool.
func (r runner) filled(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	tick := time.Tick(20 * time.Millisecond) // nobody tells of a pool that is full
	for !strings.Contains(r.Run(t, "pool", "ls", "--format", "{{.golden}}:{{.ready}}"), r.golden+":1") {
		if time.Now().After(deadline) {
			t.Fatalf("no pool:\n%s", r.Run(t, "pool", "ls"))
		}
		<-tick
	}
}
