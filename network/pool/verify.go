package pool

import (
	"context"
	"net/netip"
)

// Verify has the inner Provider, if it can, look closely at all that it has.
func (p *Pool) Verify(ctx context.Context) error {
	if v, ok := p.inner.(interface{ Verify(context.Context) error }); ok {
		return v.Verify(ctx)
	}
	return nil
}

// Outdated says whether the inner Provider has no such addresses any more.
func (p *Pool) Outdated(a netip.Addr) bool {
	v, ok := p.inner.(interface{ Outdated(netip.Addr) bool })
	return ok && v.Outdated(a)
}
