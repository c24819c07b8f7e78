// Package recorder collects measured values in HDR histograms and makes series
// of them: constant memory, three significant digits, exact extremes.
package recorder

import (
	"math"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/ctrsnap/ctrsnap/bench"
)

// The histogram counts thousandths of the unit, up to 2^53 of them. Beyond
// that a float64 would not be exact anyway.
const (
	scale   = 1000
	highest = 1 << 53
	digits  = 3
)

// Recorder collects the values of one series. It is safe for concurrent use.
type Recorder struct {
	name, golden, unit string

	mu       sync.Mutex
	values   *hdrhistogram.Histogram
	min, max float64
	errors   int64
	order    []string // of stages, so that results do not depend on maps
	stages   map[string]*stage
	kept     reservoir
	at, with map[string]float64
}

// stage is a part of the values.
type stage struct {
	values *hdrhistogram.Histogram
	kept   reservoir
}

// New returns an empty Recorder.
func New(name, golden, unit string) *Recorder {
	return &Recorder{
		name: name, golden: golden, unit: unit,
		values: histogram(), min: math.Inf(1), max: math.Inf(-1),
		stages: map[string]*stage{},
	}
}

// At says where the values are measured, and returns r.
func (r *Recorder) At(name string, value float64) *Recorder {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.at == nil {
		r.at = map[string]float64{}
	}
	r.at[name] = value
	return r
}

// With says what figure of this run belongs to the values, and returns r.
func (r *Recorder) With(name string, value float64) *Recorder {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.with == nil {
		r.with = map[string]float64{}
	}
	r.with[name] = value
	return r
}

func histogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, highest, digits) }

// Add records one value in the recorder's unit. What is no finite number from
// 0 on counts as an error.
func (r *Recorder) Add(v float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !record(r.values, v) {
		r.errors++
		return
	}
	r.min, r.max = min(r.min, v), max(r.max, v)
	r.kept.add(v)
}

func record(h *hdrhistogram.Histogram, v float64) bool {
	return v >= 0 && v < highest/scale && h.RecordValue(int64(math.Round(v*scale))) == nil
}

// AddDuration records a duration in milliseconds.
func (r *Recorder) AddDuration(d time.Duration) { r.Add(Milliseconds(d)) }

// Milliseconds is d as a floating point number.
func Milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// AddStage records how long, in milliseconds, a part of a value took.
func (r *Recorder) AddStage(name string, ms float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.stages[name]
	if s == nil {
		s = &stage{values: histogram()}
		r.stages[name] = s
		r.order = append(r.order, name)
	}
	if record(s.values, ms) {
		s.kept.add(ms)
	}
}

// Fail counts an attempt that gave no value.
func (r *Recorder) Fail() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errors++
}

// Reset forgets all values: those of a warm-up. Errors stay, for they say that
// something is wrong.
func (r *Recorder) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.values.Reset()
	r.min, r.max = math.Inf(1), math.Inf(-1)
	r.order, r.stages, r.kept = nil, map[string]*stage{}, reservoir{}
}

// Series returns what was recorded so far.
func (r *Recorder) Series() bench.Series {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := bench.Series{Name: r.name, Golden: r.golden, Unit: r.unit, N: r.values.TotalCount(), Errors: r.errors, At: r.at, With: r.with, Samples: r.kept.values()}
	if s.N == 0 {
		return s
	}
	// A bucket stands for its values by their upper end, which may lie beyond
	// the largest.
	at := func(p float64) float64 {
		v := float64(r.values.ValueAtPercentile(p)) / scale
		return min(max(v, r.min), r.max)
	}
	s.Min, s.Max = r.min, r.max
	s.P1, s.P50, s.P90, s.P99 = at(1), at(50), at(90), at(99)
	for _, stage := range r.order {
		if s.Stages == nil {
			s.Stages, s.StageSamples = map[string]float64{}, map[string][]float64{}
		}
		s.Stages[stage] = float64(r.stages[stage].values.ValueAtPercentile(50)) / scale
		s.StageSamples[stage] = r.stages[stage].kept.values()
	}
	return s
}
