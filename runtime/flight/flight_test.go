package flight_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/flight"
)

// TestDo has many ask at once, some of whom do not wait for the answer.
func TestDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g flight.Group[int]
		runs, ended := 0, 0
		work := func(ctx context.Context) (int, error) {
			runs++
			select {
			case <-time.After(time.Minute):
				return runs, nil
			case <-ctx.Done():
				ended++
				return 0, context.Cause(ctx)
			}
		}
		answers := make(chan int, 10)
		ask := func(most time.Duration) {
			ctx, cancel := context.WithTimeout(t.Context(), most)
			defer cancel()
			n, err := g.Do(ctx, "k", work)
			if err != nil && !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			answers <- n
		}
		// The one who began leaves; the others get the answer.
		for _, most := range []time.Duration{time.Second, time.Hour, time.Hour} {
			go ask(most)
			synctest.Wait()
		}
		if a, b, c := <-answers, <-answers, <-answers; a != 0 || b != 1 || c != 1 || runs != 1 || ended != 0 {
			t.Errorf("answers %d, %d, %d of %d runs, %d of them ended", a, b, c, runs, ended)
		}
		// All leave: the work ends, and the next one begins anew.
		go ask(time.Second)
		go ask(2 * time.Second)
		<-answers
		<-answers
		synctest.Wait()
		if runs != 2 || ended != 1 {
			t.Errorf("%d runs, %d of them ended", runs, ended)
		}
		go ask(time.Hour)
		if n := <-answers; n != 3 {
			t.Errorf("answer %d, want that of the third run", n)
		}
	})
}
