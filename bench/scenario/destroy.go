package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/ctrsnap/ctrsnap/bench/peer"
	"github.com/ctrsnap/ctrsnap/bench/recorder"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

// destroy compares how long it takes until nothing is left of a clone with how
// long it took to make it.
func destroy(ctx context.Context, t *take) error {
	golden := t.subject("app")
	if err := t.unpooled(ctx, golden); err != nil {
		return err
	}
	d := newDestruction(golden)
	err := interleaveFor(ctx, t, t.Span/2, warmUp, t.rounds(100), []*recorder.Recorder{d.gone, d.create, d.returns},
		func(ctx context.Context, _ int) error { return t.destroyOne(ctx, golden, d) })
	t.note("destroy: until nothing is left; destroy_returns: until the caller may go on")
	t.compare("destroy_vs_create", d.gone, d.create)
	t.keep(d.returns)
	return err
}

// destruction is what one clone's life is recorded in.
type destruction struct{ create, returns, gone *recorder.Recorder }

func newDestruction(golden string) destruction {
	return destruction{recorder.New("create", golden, "ms"), recorder.New("destroy_returns", golden, "ms"), recorder.New("destroy", golden, "ms")}
}

func (d destruction) at(what string, value float64) destruction {
	for _, r := range []*recorder.Recorder{d.create, d.returns, d.gone} {
		r.At(what, value)
	}
	return d
}

// destroyOne makes a clone, checks it, and removes it.
func (t *take) destroyOne(ctx context.Context, golden string, d destruction) error {
	c, took, _, err := t.clone(ctx, golden)
	if err != nil {
		return err
	}
	if err := checkRows(ctx, t.endpoint(c)); err != nil {
		return errors.Join(err, t.remove(ctx, c.ID))
	}
	begun := time.Now()
	if err := client.Tell(ctx, t.Rig.Client(), api.RemoveClone, api.RemoveArgs{ID: c.ID}); err != nil {
		return err
	}
	returned := time.Since(begun)
	if err := t.gone(ctx, c.ID); err != nil {
		return err
	}
	d.create.AddDuration(took)
	d.returns.AddDuration(returned)
	d.gone.AddDuration(time.Since(begun))
	return nil
}

// gone waits until nothing of a clone is left: its directory is the last that goes.
func (e *Env) gone(ctx context.Context, id string) error {
	return e.await(ctx, "clone "+id+" to be gone", func() bool {
		_, err := os.Stat(filepath.Join(e.Rig.State(), "clones", id))
		return errors.Is(err, os.ErrNotExist)
	})
}

// firstwrite compares the first write into a table of gigabytes with that into a
// small one.
func firstwrite(ctx context.Context, t *take) error {
	for _, golden := range []string{"small", "big"} {
		if err := t.unpooled(ctx, golden); err != nil {
			return err
		}
	}
	big, small := recorder.New("big", "big", "ms"), recorder.New("small", "small", "ms")
	second, disk := recorder.New("big_second", "big", "ms"), recorder.New("big_disk", "big", "bytes")
	err := interleave(ctx, t, warmUp, t.rounds(60), []*recorder.Recorder{big, small, second, disk},
		func(ctx context.Context, _ int) error { return t.writeFirst(ctx, "big", big, second, disk) },
		func(ctx context.Context, _ int) error { return t.writeFirst(ctx, "small", small, nil, nil) })
	t.note("a write is an UPDATE of one row, found by its place, over a connection that is open; the table of big has files of 1 GiB")
	t.compare("firstwrite_big_vs_small", big, small)
	t.keep(second, disk)
	return err
}

// update changes the row of one page of the large table without looking at others.
const update = "UPDATE orders SET id = -1 WHERE ctid = '(%d,1)' RETURNING id"

// writeFirst writes into a new clone, and again if the second write is of interest.
func (t *take) writeFirst(ctx context.Context, golden string, first, second, disk *recorder.Recorder) (err error) {
	c, _, _, err := t.clone(ctx, golden)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.remove(ctx, c.ID)) }()
	conn, err := endpoint(c).Connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the clone goes next
	if err := peer.WantOn(ctx, conn, "SELECT 1", "1"); err != nil {
		return err
	}
	for page, r := range []*recorder.Recorder{first, second} {
		begun := time.Now()
		if err := peer.WantOn(ctx, conn, fmt.Sprintf(update, page), "-1"); err != nil {
			return err
		}
		if r != nil {
			r.AddDuration(time.Since(begun))
		}
	}
	if err := t.wrote(ctx, c, disk); err != nil {
		return err
	}
	return checkRows(ctx, endpoint(c))
}

// wrote records what the writes took of the disk.
func (t *take) wrote(ctx context.Context, c api.Clone, disk *recorder.Recorder) error {
	if disk == nil {
		return nil
	}
	seen, err := client.Do(ctx, t.Rig.Client(), api.GetClone, api.CloneArgs{ID: c.ID})
	if err != nil {
		return err
	}
	disk.Add(float64(seen.DiskBytes))
	return nil
}
