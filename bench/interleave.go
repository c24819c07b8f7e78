package bench

import "context"

// Arm is one of the things that are compared: it measures once. round counts
// from 0.
type Arm func(ctx context.Context, round int) error

// Interleave runs the arms in turns, A B A B, so that what changes on the
// machine meanwhile meets all of them. It ends with the first error: an arm
// records what is incorrect and returns only what it cannot go on with.
func Interleave(ctx context.Context, rounds int, arms ...Arm) error {
	for round := range rounds {
		for _, arm := range arms {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := arm(ctx, round); err != nil {
				return err
			}
		}
	}
	return nil
}
