// Package stat decides whether what was measured twice has changed.
package stat

import (
	"slices"

	"github.com/aclements/go-moremath/stats"
)

// Alpha is how likely two runs that differ in nothing may be told apart: a
// report compares dozens of series, so it is less than the customary 0.05.
const Alpha = 0.01

// Verdict says what became of a quantity.
type Verdict string

// Values of Verdict. Unknown is said where there are too few values for
// any difference to be significant.
const (
	Better  Verdict = "better"
	Worse   Verdict = "worse"
	Same    Verdict = "same"
	Unknown Verdict = "unknown"
)

// Change is how a quantity has changed from one run to another.
type Change struct {
	Old, New float64 // medians
	Delta    float64 // of the medians, as a part of Old; 0 where Old is 0
	P        float64 // how likely such values are if nothing has changed; 1 where nothing can be said
	Verdict  Verdict
}

// Compare tells whether new values are better or worse than old ones. more says that
// more is better. It uses the test of Mann and Whitney, which supposes no
// shape of the distributions: latencies have long tails. The test sees chance
// within the runs; it cannot see that a machine was slower on another day.
func Compare(old, new []float64, more bool) Change {
	c := Change{Old: Median(old), New: Median(new), P: 1, Verdict: Unknown}
	if c.Old != 0 {
		c.Delta = (c.New - c.Old) / c.Old
	}
	if !enough(len(old), len(new)) {
		return c
	}
	c.Verdict = Same
	test, err := stats.MannWhitneyUTest(old, new, stats.LocationDiffers)
	if err != nil { // all values are equal
		return c
	}
	c.P = test.P
	if c.P < Alpha && c.Delta != 0 {
		c.Verdict = Worse
		if c.Delta > 0 == more {
			c.Verdict = Better
		}
	}
	return c
}

// enough says whether the smallest P that so many values can give is below Alpha:
// two of the ways to choose m of m+n.
func enough(m, n int) bool {
	ways := 1.0
	for i := 1; i <= min(m, n); i++ {
		ways *= float64(max(m, n)+i) / float64(i)
	}
	return m > 0 && n > 0 && 2/ways < Alpha
}

// Median returns the middle value, 0 of none.
func Median(values []float64) float64 { return Quantile(values, 0.5) }

// Quantile returns the value that the part q of the values does not exceed: the
// nearest rank, so that it is one of them. It is 0 of none.
func Quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	i := int(q*float64(len(sorted))+0.999999) - 1 // the ceiling, but for rounding of q
	return sorted[min(max(i, 0), len(sorted)-1)]
}
