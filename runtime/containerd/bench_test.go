package containerd

import (
	"testing"
	"time"

	"github.com/ctrsnap/ctrsnap/snapshot/containerd/containerdtest"
)

// BenchmarkLife measures a container's life through the stock shim.
func BenchmarkLife(b *testing.B) {
	h := newHost(b)
	containerdtest.Serve(b, h.dir)
	r := h.runner(b)
	var create, start, remove time.Duration
	for b.Loop() {
		begun := time.Now()
		task, err := r.Create(b.Context(), h.container("life", "sleep 100"))
		if err != nil {
			b.Fatal(err)
		}
		created := time.Now()
		if err := task.Start(b.Context()); err != nil {
			b.Fatal(err)
		}
		started := time.Now()
		if err := r.Delete(b.Context(), "life"); err != nil {
			b.Fatal(err)
		}
		create, start, remove = create+created.Sub(begun), start+started.Sub(created), remove+time.Since(started)
	}
	for unit, d := range map[string]time.Duration{"create-ms/op": create, "start-ms/op": start, "delete-ms/op": remove} {
		b.ReportMetric(float64(d.Microseconds())/1000/float64(b.N), unit)
	}
}
