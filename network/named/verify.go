package named

import (
	"context"
	"net/netip"
)

// Verify has all Providers that can look closely at what they have. It takes
// its time.
func (p *Provider) Verify(ctx context.Context) error {
	return p.each(func(n Network) error {
		if v, ok := n.(interface{ Verify(context.Context) error }); ok {
			return v.Verify(ctx)
		}
		return nil
	})
}

// Outdated says whether an address of the default network, given out earlier,
// is of a range that it does not have any more. It does not wait for anything.
func (p *Provider) Outdated(a netip.Addr) bool {
	v, ok := p.opts.Default.(interface{ Outdated(netip.Addr) bool })
	return ok && v.Outdated(a)
}
