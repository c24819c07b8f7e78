package scenario

import (
	"context"
	"errors"
	"time"

	"github.com/ctrsnap/ctrsnap/bench/peer"
	"github.com/ctrsnap/ctrsnap/bench/recorder"
)

// template compares cold clones with copies of the same database that one
// server makes of it inside itself.
func template(ctx context.Context, t *take) error {
	if t.PG18 == "" {
		t.skip("cold_vs_template: no PostgreSQL 18 was given (--pg18 PREFIX, CTRSNAP_PG18)")
	} else if err := t.template18(ctx); err != nil {
		return err
	}
	return t.templateOld(ctx)
}

// template18 is against the strongest rival: files copied by reflink.
func (t *take) template18(ctx context.Context) error {
	const golden = "shop18"
	if err := t.unpooled(ctx, golden); err != nil {
		return err
	}
	over, under := recorder.New("ctrsnap", golden, "ms"), recorder.New("template_clone", golden, "ms")
	err := t.withTemplates(ctx, golden, []string{"FILE_COPY"}, []string{"file_copy_method=clone"}, func(peers []*peer.Template) error {
		return interleave(ctx, t, warmUp, t.rounds(60), []*recorder.Recorder{over, under},
			func(ctx context.Context, _ int) error { return t.coldClone(ctx, golden, over, checkRows) },
			func(ctx context.Context, _ int) error { return copyTemplate(ctx, peers[0], under) })
	})
	t.compare("cold_vs_template", over, under)
	return err
}

// templateOld is what servers do that cannot reflink. It takes seconds each,
// so there are few.
func (t *take) templateOld(ctx context.Context) error {
	const golden = "shop"
	if err := t.unpooled(ctx, golden); err != nil {
		return err
	}
	over := recorder.New("ctrsnap", golden, "ms")
	walLog, fileCopy := recorder.New("template_wal_log", golden, "ms"), recorder.New("template_file_copy", golden, "ms")
	begun := time.Now()
	err := t.withTemplates(ctx, golden, []string{"WAL_LOG", "FILE_COPY"}, nil, func(peers []*peer.Template) error {
		for round := range t.rounds(3) {
			if round > 0 && time.Since(begun) > time.Minute {
				t.note("%s: ended after %d rounds: a minute was over", golden, round)
				return nil
			}
			if err := t.coldClone(ctx, golden, over, checkRows); err != nil {
				return err
			}
			for i, r := range []*recorder.Recorder{walLog, fileCopy} {
				if err := copyTemplate(ctx, peers[i], r); err != nil {
					return err
				}
			}
		}
		return nil
	})
	t.keep(over, walLog, fileCopy)
	return err
}

// withTemplates runs one bare server on a copy of the golden with a connection
// for each strategy.
func (t *take) withTemplates(ctx context.Context, golden string, strategies, settings []string, run func([]*peer.Template) error) (err error) {
	o, login, err := t.study(ctx, golden)
	if err != nil {
		return err
	}
	b, err := t.bare(o, login, settings...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	if err := b.Start(ctx); err != nil {
		return err
	}
	var peers []*peer.Template
	for _, strategy := range strategies {
		p, err := peer.NewTemplate(ctx, b, strategy)
		if err != nil {
			return err
		}
		defer p.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the server ends next
		peers = append(peers, p)
	}
	return run(peers)
}

func copyTemplate(ctx context.Context, p *peer.Template, r *recorder.Recorder) error {
	took, err := p.Copy(ctx, func(at peer.Endpoint) error { return checkRows(ctx, at) })
	if err == nil {
		r.AddDuration(took)
	}
	return err
}
