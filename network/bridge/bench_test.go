package bridge

import (
	"slices"
	"testing"
	"time"

	"github.com/ctrsnap/ctrsnap/network/testsuite"
)

// BenchmarkAddRemove reports the medians of both in milliseconds.
func BenchmarkAddRemove(b *testing.B) {
	n := mustOpen(b, testOptions(b))
	var add, remove []time.Duration
	for b.Loop() {
		t0 := time.Now()
		testsuite.MustAdd(b, n, "ca")
		t1 := time.Now()
		testsuite.MustRemove(b, n, "ca")
		add, remove = append(add, t1.Sub(t0)), append(remove, time.Since(t1))
	}
	b.ReportMetric(median(add), "add-p50-ms")
	b.ReportMetric(median(remove), "remove-p50-ms")
}

func median(d []time.Duration) float64 {
	slices.Sort(d)
	return float64(d[len(d)/2].Microseconds()) / 1000
}
