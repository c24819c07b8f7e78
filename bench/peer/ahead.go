package peer

import (
	"context"
	"errors"
)

// Ahead hands out databases as IntegreSQL does: copies of the template for the hash are
// made ahead, and made anew when one was used.
type Ahead struct {
	perHash *PerHash
	ready   []prepared
	size    int
}

type prepared struct {
	at   Endpoint
	drop Drop
}

var _ Peer = (*Ahead)(nil)

// NewAhead makes size databases. The caller must Close it.
func NewAhead(ctx context.Context, server *Bare, size int) (*Ahead, error) {
	a := &Ahead{perHash: &PerHash{server: server, prefix: "ahead"}, size: size}
	if err := a.refill(ctx); err != nil {
		return nil, errors.Join(err, a.Close(context.WithoutCancel(ctx)))
	}
	return a, nil
}

// refill makes what lacks. It runs between what is measured: whoever asks for a
// database finds one.
func (a *Ahead) refill(ctx context.Context) error {
	for len(a.ready) < a.size {
		at, drop, err := a.perHash.Get(ctx)
		if err != nil {
			return err
		}
		a.ready = append(a.ready, prepared{at, drop})
	}
	return nil
}

// Name implements [Peer].
func (a *Ahead) Name() string { return "integresql_way" }

// Get implements [Peer].
func (a *Ahead) Get(ctx context.Context) (Endpoint, Drop, error) {
	p := a.ready[0]
	a.ready = a.ready[1:]
	drop := func(ctx context.Context) error { return errors.Join(p.drop(ctx), a.refill(ctx)) }
	if err := p.at.Answer(ctx); err != nil {
		return p.at, nil, errors.Join(err, drop(context.WithoutCancel(ctx)))
	}
	return p.at, drop, nil
}

// Close implements [Peer].
func (a *Ahead) Close(ctx context.Context) error {
	var err error
	for _, p := range a.ready {
		err = errors.Join(err, p.drop(ctx))
	}
	a.ready = nil
	return err
}
