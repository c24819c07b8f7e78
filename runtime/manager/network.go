package manager

import (
	"crypto/rand"
	"fmt"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/none"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// reach says who reaches the clones and what they reach. It is to come after
// lifetime, which knows the lease.
func (l *planner) reach(p *plan) func(api.CloneRequest) error {
	return func(req api.CloneRequest) (err error) {
		p.networks = strings.Join(req.Networks, ",")
		p.egress = l.opts.Egress && p.networks != none.Name
		if req.Egress != nil {
			p.egress = *req.Egress
		}
		p.peers = p.lease.ID
		if p.peers == "" && p.count > 1 {
			p.peers = "r" + strings.ToLower(rand.Text())
		}
		if req.IP == "" {
			return nil
		}
		p.addr, err = netip.ParseAddr(req.IP)
		if err != nil || !p.addr.Is4() {
			return fmt.Errorf("invalid ip %.64q: want an IPv4 address as in 10.213.0.77: %w", req.IP, errdefs.ErrInvalidArgument)
		}
		if p.count > 1 {
			return fmt.Errorf("ip %s is for one clone, not for %d: %w", p.addr, p.count, errdefs.ErrInvalidArgument)
		}
		return nil
	}
}

// network returns what a clone's network is to be like.
func (p *plan) network() network.Options {
	return network.Options{Lease: p.peers, Egress: p.egress, Addr: p.addr, Networks: p.networks}
}
