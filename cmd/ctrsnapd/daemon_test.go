package main

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestEndAtLast ends the process if a stop hangs, and only then.
func TestEndAtLast(t *testing.T) {
	for name, c := range map[string]struct {
		stops time.Duration // how long the stop takes
		want  []int
	}{
		"in time": {time.Second, nil},
		"hangs":   {time.Hour, []int{1}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				var codes []int
				done := endAtLast(ctx, time.Minute, func(code int) { codes = append(codes, code) })
				<-time.After(time.Hour) // a daemon that serves is not ended
				cancel()
				<-time.After(c.stops)
				done()
				synctest.Wait()
				<-time.After(time.Hour)
				if !slices.Equal(codes, c.want) {
					t.Errorf("exit codes %v, want %v", codes, c.want)
				}
			})
		})
	}
}
