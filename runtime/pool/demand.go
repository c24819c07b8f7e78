package pool

import (
	"math"
	"time"
)

const (
	// safety is how many members are kept for each that the demand so far
	// would have used up.
	safety = 2
	// halfLife is the time in which demand that does not come again is half
	// forgotten.
	halfLife = 10 * time.Minute
)

// demand is what was asked of one pool lately. Its debt is how many members an
// endless pool would be short of now: one more with each claim, one less each
// time that a member can have been made anew. The highest debt is what a pool
// has to hold so that nobody finds it empty; it is forgotten with time.
type demand struct {
	debt, peak     float64
	debtAt, peakAt time.Time
}

// claim takes note of one claim. refill is how long one member more takes.
func (d *demand) claim(now time.Time, refill time.Duration) {
	if refill > 0 {
		d.debt -= float64(now.Sub(d.debtAt)) / float64(refill)
	}
	d.debt, d.debtAt = max(d.debt, 0)+1, now
	d.seen(now, d.debt)
}

// seen raises the highest debt to debt.
func (d *demand) seen(now time.Time, debt float64) {
	d.peak, d.peakAt = max(d.peakNow(now), debt), now
}

func (d *demand) peakNow(now time.Time) float64 {
	return d.peak * math.Exp2(-float64(now.Sub(d.peakAt))/float64(halfLife))
}

// wanted returns how many members the demand is worth.
func (d *demand) wanted(now time.Time) int { return int(math.Round(safety * d.peakNow(now))) }
