package snapshot

import (
	"context"
	"time"
)

// ScrubOpts say how goldens are verified in the background.
type ScrubOpts struct {
	Every time.Duration // each golden; not positive is never
	// Since has those verified at once that were not since then: when the machine
	// was started after it had lost its power. Zero has none.
	Since time.Time
	Pace  func(context.Context) error // called after each MiB that was read
	// Failed is told of goldens that could not be verified, or are not what was built.
	Failed func(Golden, error)
}
