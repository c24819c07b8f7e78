package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/ctrsnap/ctrsnap/network/bridge"
	"github.com/ctrsnap/ctrsnap/network/dns"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// names answers for the names of clones at the addresses of the bridges, and
// has clones ask there. It is safe for concurrent use.
type names struct {
	bridge *bridge.Network
	server *dns.Server
	dir    string // of the files that are clones' resolv.conf
	log    *slog.Logger

	mu     sync.Mutex
	files  map[netip.Prefix]string // by the host's address; "" where somebody else listens
	failed map[netip.Prefix]error
}

// openNames begins to answer. Clones do without where that cannot be.
func (d *daemon) openNames(ctx context.Context) {
	if d.bridge == nil || !d.cfg.Network.DNS {
		return
	}
	forward, _ := d.cfg.Network.Forward() // it was checked with the configuration
	opts := dns.Options{Log: d.log, Forward: forward, IsContainer: new(containers).have}
	d.names = &names{
		bridge: d.bridge, server: dns.New(d.manager, opts), dir: d.state("resolv"), log: d.log,
		files: map[netip.Prefix]string{}, failed: map[netip.Prefix]error{},
	}
	for _, at := range d.bridge.Gateways() {
		d.names.listen(ctx, at)
	}
}

// zone is where names of clones are answered, or "".
func (d *daemon) zone() string {
	if d.bridge == nil || !d.cfg.Network.DNS {
		return ""
	}
	return strings.TrimSuffix(dns.Zone, ".")
}

// resolvConf returns the resolv.conf of a clone with an address, or "".
func (d *daemon) resolvConf(ctx context.Context, addr netip.Addr) string {
	if d.names == nil {
		return ""
	}
	file := ""
	for _, at := range d.bridge.Gateways() {
		got, known := d.names.file(at)
		if !known { // a bridge that came later: its first clone
			got = d.names.listen(ctx, at)
		}
		if at.Contains(addr) {
			file = got
		}
	}
	return file
}

func (n *names) file(at netip.Prefix) (file string, known bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	file, known = n.files[at]
	return file, known
}

// listen listens at an address, unless it does already, and returns the file
// that sends clones there.
func (n *names) listen(ctx context.Context, at netip.Prefix) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	err := n.server.Listen(ctx, at)
	file := filepath.Join(n.dir, at.Addr().String())
	if err == nil {
		err = errors.Join(os.MkdirAll(n.dir, 0o755), os.WriteFile(file, resolvConf(at.Addr()), 0o644)) //nolint:gosec // all users of clones read it
	}
	delete(n.failed, at)
	if err != nil {
		file = ""
		n.failed[at] = err
		n.log.WarnContext(ctx, "no names for clones", "address", at.Addr(), "error", err)
	}
	n.files[at] = file
	return file
}

// resolvConf is written so that names of clones need no domain. It names no other
// server: a clone that does not reach it would wait for it with each name that is
// none of ours. See resolv.conf(5).
func resolvConf(at netip.Addr) []byte {
	return fmt.Appendf(nil, "search %s\nnameserver %s\n", strings.TrimSuffix(dns.Zone, "."), at)
}

// check tries again where it could not listen.
func (n *names) check(ctx context.Context) api.Check {
	var at []string
	for _, gateway := range n.bridge.Gateways() {
		n.listen(ctx, gateway)
		at = append(at, gateway.Addr().String())
	}
	c := api.Check{Name: "names", Status: "ok", Detail: fmt.Sprintf("%s at %s", strings.TrimSuffix(dns.Zone, "."), strings.Join(at, ", "))}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, err := range n.failed {
		c.Status, c.Why = "warning", fmt.Sprintf("clones do not find each other by name: %v", err)
		c.Fix = "have what listens on port 53 of all addresses leave these out, or set network.dns = false"
	}
	return c
}
