package stat_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/ctrsnap/ctrsnap/bench/stat"
)

func exponential(r *rand.Rand, n int, mean float64) []float64 {
	values := make([]float64, n)
	for i := range values {
		values[i] = mean * r.ExpFloat64()
	}
	return values
}

// Of pairs of runs that differ in nothing, the part that is told apart is Alpha.
func TestFalseAlarmsAreAsRareAsPromised(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	const pairs = 4000
	alarms := 0
	for range pairs {
		if v := stat.Compare(exponential(r, 40, 1), exponential(r, 60, 1), false).Verdict; v != stat.Same {
			alarms++
		}
	}
	deviation := math.Sqrt(pairs * stat.Alpha * (1 - stat.Alpha))
	if math.Abs(float64(alarms)-pairs*stat.Alpha) > 4*deviation {
		t.Errorf("%d of %d, want about %g", alarms, pairs, pairs*stat.Alpha)
	}
}

func TestChangesAreFound(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	found := 0
	for range 200 {
		c := stat.Compare(exponential(r, 200, 1), exponential(r, 200, 1.8), false)
		if c.Verdict == stat.Worse && c.Delta > 0 {
			found++
		}
	}
	if found < 190 {
		t.Errorf("%d of 200 slow-downs by 80 %% were found", found)
	}
}

// P is known where every value of one run is above all of the other: two of
// the 184,756 ways to choose 10 of 20.
func TestExactP(t *testing.T) {
	var low, high []float64
	for i := range 10 {
		low, high = append(low, float64(i)), append(high, float64(100+i))
	}
	c := stat.Compare(low, high, true)
	if want := 2.0 / 184756; math.Abs(c.P-want) > 1e-9 || c.Verdict != stat.Better || c.Old != 4 || c.New != 104 || c.Delta != 25 {
		t.Errorf("got %+v, want P %g", c, want)
	}
	if c := stat.Compare(low, high, false); c.Verdict != stat.Worse {
		t.Errorf("more of what is to be less: %+v", c)
	}
	if c := stat.Compare(high, low, true); c.Verdict != stat.Worse {
		t.Errorf("less of what is to be more: %+v", c)
	}
}

func TestNothingIsSaidOfTooFew(t *testing.T) {
	for _, pair := range [][2][]float64{{nil, nil}, {{1}, {2}}, {{1, 2, 3}, {7, 8, 9}}, {nil, {1, 2, 3, 4, 5, 6, 7, 8, 9}}} {
		if c := stat.Compare(pair[0], pair[1], false); c.Verdict != stat.Unknown || c.P != 1 {
			t.Errorf("%v: %+v", pair, c)
		}
	}
	equal := []float64{5, 5, 5, 5, 5, 5, 5, 5}
	if c := stat.Compare(equal, equal, false); c.Verdict != stat.Same {
		t.Errorf("equal values: %+v", c)
	}
}

func TestQuantile(t *testing.T) {
	values := make([]float64, 100)
	for i := range values {
		values[i] = float64(100 - i)
	}
	for q, want := range map[float64]float64{0: 1, 0.01: 1, 0.5: 50, 0.9: 90, 0.99: 99, 1: 100} {
		if got := stat.Quantile(values, q); got != want {
			t.Errorf("%g: got %g, want %g", q, got, want)
		}
	}
	if values[0] != 100 {
		t.Error("the values were sorted in place")
	}
}
