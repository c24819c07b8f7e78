package undo

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"
)

func TestRun(t *testing.T) {
	var s Stack
	var did []string
	failed := errors.New("failed")
	for _, name := range []string{"first", "second", "third"} {
		s.Add(name, func(ctx context.Context) error {
			if _, bounded := ctx.Deadline(); ctx.Err() != nil || !bounded {
				t.Errorf("%s is done in a context that has ended, or never will", name)
			}
			did = append(did, name)
			if name == "second" {
				return failed
			}
			return nil
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx, time.Minute); !errors.Is(err, failed) || err.Error() != "second: failed" {
		t.Errorf("error %v", err)
	}
	if !slices.Equal(did, []string{"third", "second", "first"}) {
		t.Errorf("did %v", did)
	}
	if err := s.Run(ctx, time.Minute); err != nil || len(did) != 3 {
		t.Errorf("done once more: %v, %v", did, err)
	}
}
