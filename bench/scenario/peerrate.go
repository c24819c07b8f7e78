package scenario

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ctrsnap/ctrsnap/bench"
	"github.com/ctrsnap/ctrsnap/bench/peer"
	"github.com/ctrsnap/ctrsnap/bench/recorder"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

// raceTemplates compares how many databases per second callers get and drop, of
// ctrsnap and of the strongest template.
func (t *take) raceTemplates(ctx context.Context) error {
	if t.PG18 == "" {
		t.skip("throughput_vs_template, template_clone: no PostgreSQL 18 was given (--pg18 PREFIX, CTRSNAP_PG18)")
		return nil
	}
	const golden = "app18"
	if err := t.unpooled(ctx, golden); err != nil {
		return err
	}
	over, under := recorder.New("ctrsnap_rate", golden, "1/s"), recorder.New("template_rate", golden, "1/s")
	strategies := make([]string, callers+1)
	for i := range strategies {
		strategies[i] = "FILE_COPY"
	}
	err := t.withTemplates(ctx, golden, strategies, []string{"file_copy_method=clone"}, func(templates []*peer.Template) error {
		for i, p := range templates {
			p.Number(i)
		}
		one := named{templates[callers], "template_clone"}
		if err := t.race(ctx, golden, []peer.Peer{clones{t.Env, "ctrsnap", golden, nothing}, one}); err != nil {
			return err
		}
		return bench.Interleave(ctx, t.rounds(3),
			func(ctx context.Context, _ int) error {
				return t.sustain(ctx, over, func(int) peer.Peer { return fast{clones{t.Env, "ctrsnap", golden, nothing}} })
			},
			func(ctx context.Context, _ int) error {
				return t.sustain(ctx, under, func(i int) peer.Peer { return templates[i] })
			})
	})
	t.compare("throughput_vs_template", over, under)
	return err
}

// named is a peer with another name.
type named struct {
	peer.Peer
	name string
}

func (n named) Name() string { return n.name }

// fast is ctrsnap without waiting until each clone is gone: all are in the end.
type fast struct{ clones }

// Get implements [peer.Peer].
func (f fast) Get(ctx context.Context) (peer.Endpoint, peer.Drop, error) {
	at, _, c, err := f.get(ctx)
	return at, func(ctx context.Context) error {
		return client.Tell(ctx, f.Rig.Client(), api.RemoveClone, api.RemoveArgs{ID: c.ID})
	}, err
}

func (f fast) get(ctx context.Context) (peer.Endpoint, time.Duration, api.Clone, error) {
	c, took, _, err := f.clone(ctx, f.golden)
	return endpoint(c), took, c, err
}

// sustain records how many databases per second callers get, ask and drop, each with a
// peer of his own, until nothing is left.
func (t *take) sustain(ctx context.Context, r *recorder.Recorder, of func(caller int) peer.Peer) error {
	length := 5 * time.Second
	if t.Quick {
		length = time.Second
	}
	begun := time.Now()
	counts := make([]int, callers)
	g, gctx := errgroup.WithContext(ctx)
	for i := range counts {
		p := of(i)
		g.Go(func() error {
			for time.Since(begun) < length {
				if err := t.getOne(gctx, p, recorder.New("", "", "ms")); err != nil {
					return err
				}
				counts[i]++
			}
			return nil
		})
	}
	if err := errors.Join(g.Wait(), t.drained(ctx, 0)); err != nil {
		return err
	}
	sum := 0
	for _, n := range counts {
		sum += n
	}
	r.Add(float64(sum) / time.Since(begun).Seconds())
	return nil
}
