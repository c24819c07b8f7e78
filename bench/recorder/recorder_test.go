package recorder_test

import (
	"math"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/ctrsnap/ctrsnap/bench/recorder"
)

// near allows for three significant digits.
func near(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if math.Abs(got-want) > tolerance*want {
		t.Errorf("%s: got %g, want %g", what, got, want)
	}
}

func TestUniform(t *testing.T) {
	r := recorder.New("x", "shop", "ms")
	var wg sync.WaitGroup
	for start := range 4 { // 1 … 10,000, in any order
		wg.Go(func() {
			for i := start + 1; i <= 10_000; i += 4 {
				r.Add(float64(i))
			}
		})
	}
	wg.Wait()
	s := r.Series()
	if s.Name != "x" || s.Golden != "shop" || s.Unit != "ms" || s.N != 10_000 || s.Errors != 0 || s.Min != 1 || s.Max != 10_000 {
		t.Errorf("got %+v", s)
	}
	for _, p := range []struct {
		name      string
		got, want float64
	}{{"p1", s.P1, 100}, {"p50", s.P50, 5000}, {"p90", s.P90, 9000}, {"p99", s.P99, 9900}} {
		near(t, p.name, p.got, p.want, 0.001)
	}
}

// The quantiles of an exponential distribution are -ln(1-p).
func TestExponential(t *testing.T) {
	r := recorder.New("", "", "ms")
	source := rand.New(rand.NewPCG(1, 2))
	for range 200_000 {
		r.Add(source.ExpFloat64())
	}
	s := r.Series()
	near(t, "p50", s.P50, math.Ln2, 0.02)
	near(t, "p90", s.P90, math.Log(10), 0.02)
	near(t, "p99", s.P99, math.Log(100), 0.03)
}

func TestExtremes(t *testing.T) {
	r := recorder.New("", "", "bytes")
	for _, v := range []float64{0, 0.001, 8 << 30} {
		r.Add(v)
	}
	for _, v := range []float64{-1, math.NaN(), math.Inf(1), 1e300} {
		r.Add(v)
	}
	r.Fail()
	s := r.Series()
	if s.N != 3 || s.Errors != 5 || s.Min != 0 || s.Max != 8<<30 || s.P99 > s.Max || s.P1 < s.Min {
		t.Errorf("got %+v", s)
	}
}

func TestStagesAndReset(t *testing.T) {
	r := recorder.New("", "", "ms")
	r.Add(1000)
	r.AddStage("boot", 1000)
	r.Fail()
	r.Reset()
	if s := r.Series(); s.N != 0 || s.Stages != nil || s.Errors != 1 || s.Max != 0 {
		t.Errorf("after a reset: %+v", s)
	}
	for _, v := range []float64{10, 20, 30} {
		r.Add(v)
		r.AddStage("boot", v/2)
	}
	s := r.Series()
	near(t, "boot", s.Stages["boot"], 10, 0.001)
	near(t, "p50", s.P50, 20, 0.001)
}

// Of many values, the same part is kept from everywhere.
func TestSamples(t *testing.T) {
	r := recorder.New("", "", "ms").At("live", 10)
	for i := range 30_000 {
		r.Add(float64(i))
		r.AddStage("start", float64(i)/2)
	}
	s := r.Series()
	sum, halves := 0.0, 0.0
	for i, v := range s.Samples {
		sum, halves = sum+v, halves+s.StageSamples["start"][i]
	}
	n := float64(len(s.Samples))
	near(t, "mean of the samples", sum/n, 15_000, 0.15)
	near(t, "mean of the stage's", halves/n, 7_500, 0.15)
	if n != 300 || s.At["live"] != 10 {
		t.Errorf("%g kept, at %v", n, s.At)
	}
	r.Reset()
	r.Add(1.23456)
	if s := r.Series(); len(s.Samples) != 1 || s.Samples[0] != 1.235 || len(s.StageSamples) != 0 {
		t.Errorf("after reset: %v, %v", s.Samples, s.StageSamples)
	}
}
