package scenario

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/ctrsnap/ctrsnap/bench/recorder"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

// claim compares the whole process `ctrsnap clone shop` on a warm pool with a
// program that prints one line.
func claim(ctx context.Context, t *take) error {
	golden, members := t.subject("shop"), 4
	if _, err := exec.LookPath(t.Rig.Program("noop")); err != nil {
		t.skip("claim_vs_noop: 'make bench' builds the program to compare with: %v", err)
		return t.claimsOnly(ctx, golden, members)
	}
	if err := t.pooled(ctx, golden, members); errors.Is(err, errNoPool) {
		t.skip("claim_vs_noop: not available: %v", err)
		return nil
	} else if err != nil {
		return err
	}
	over, under := recorder.New("ctrsnap", golden, "ms"), recorder.New("noop", "", "ms")
	err := interleave(ctx, t, warmUp, t.rounds(200), []*recorder.Recorder{over, under},
		func(ctx context.Context, _ int) error { return t.claimOne(ctx, golden, members, over) },
		func(ctx context.Context, _ int) error {
			_, took, err := t.process(ctx, t.Rig.Program("noop"))
			under.AddDuration(took)
			return err
		})
	t.compare("claim_vs_noop", over, under)
	return errors.Join(err, t.setPool(ctx, golden, 0))
}

// claimsOnly measures claims beside nothing.
func (t *take) claimsOnly(ctx context.Context, golden string, members int) error {
	if err := t.pooled(ctx, golden, members); err != nil {
		return err
	}
	r := recorder.New("ctrsnap", golden, "ms")
	err := interleave(ctx, t, warmUp, t.rounds(200), []*recorder.Recorder{r},
		func(ctx context.Context, _ int) error { return t.claimOne(ctx, golden, members, r) })
	t.keep(r)
	return errors.Join(err, t.setPool(ctx, golden, 0))
}

// process runs a program to its end.
func (t *take) process(ctx context.Context, program string, args ...string) (string, time.Duration, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = t.Rig.Env()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	begun := time.Now()
	err := cmd.Run()
	took := time.Since(begun)
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", cmd, err, stderr.String())
	}
	return strings.TrimSpace(stdout.String()), took, err
}

// claimOne claims a clone, checks that it was from the pool and is right, and
// waits until the pool is warm again.
func (t *take) claimOne(ctx context.Context, golden string, members int, r *recorder.Recorder) error {
	url, took, err := t.process(ctx, t.Rig.Program("ctrsnap"), "clone", t.ref(golden))
	if err != nil {
		return err
	}
	c, err := t.byURL(ctx, url)
	if err != nil {
		return err
	}
	err = checkRows(ctx, t.endpoint(c))
	if err := errors.Join(err, t.remove(ctx, c.ID), t.warm(ctx, golden, members)); err != nil {
		return err
	}
	if _, hit := c.Timings[api.StageClaim]; !hit {
		return fmt.Errorf("clone %s is not from the warm pool: %v", c.ID, c.Timings)
	}
	r.AddDuration(took)
	for stage, ms := range c.Timings {
		r.AddStage(string(stage), ms)
	}
	return nil
}

func (t *take) byURL(ctx context.Context, url string) (api.Clone, error) {
	clones, err := client.Do(ctx, t.Rig.Client(), api.ListClones, api.ListClonesArgs{})
	if err != nil {
		return api.Clone{}, err
	}
	for _, c := range clones {
		if c.URL == url {
			return c, nil
		}
	}
	return api.Clone{}, fmt.Errorf("no clone has the URL that was printed")
}
