package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/ctrsnap/ctrsnap/network"
)

// Domain is Zone as people write it.
var Domain = strings.TrimSuffix(Zone, ".")

// Names answers for the names of clones at the addresses that a host has on their bridges, and has clones ask there.
// It is safe for concurrent use. nil answers nobody.
type Names struct {
	gateways func() []netip.Prefix
	server   *Server
	dir      string

	mu     sync.Mutex
	files  map[netip.Prefix]string // by the host's address; "" where somebody else listens
	failed map[netip.Prefix]error
}

// Open begins to answer at the gateways that there are; others follow when a clone needs them. Clones do without where
// somebody else listens: Verify says so. dir takes the files that are clones' resolv.conf. The caller must Close it.
func Open(ctx context.Context, clones Directory, gateways func() []netip.Prefix, dir string, opts Options) *Names {
	n := &Names{
		gateways: gateways, server: New(clones, opts), dir: dir,
		files: map[netip.Prefix]string{}, failed: map[netip.Prefix]error{},
	}
	for _, at := range gateways() {
		n.listen(ctx, at)
	}
	return n
}

// Close stops answering.
func (n *Names) Close() error {
	if n == nil {
		return nil
	}
	return n.server.Close()
}

// ResolvConf returns the path of the resolv.conf of a clone with an address, or "".
func (n *Names) ResolvConf(ctx context.Context, addr netip.Addr) string {
	if n == nil {
		return ""
	}
	file := ""
	for _, at := range n.gateways() {
		got, known := n.file(at)
		if !known { // a bridge that came later: its first clone
			got = n.listen(ctx, at)
		}
		if at.Contains(addr) {
			file = got
		}
	}
	return file
}

func (n *Names) file(at netip.Prefix) (file string, known bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	file, known = n.files[at]
	return file, known
}

// listen listens at an address, unless it does already, and returns the file
// that sends clones there.
func (n *Names) listen(ctx context.Context, at netip.Prefix) string {
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
		n.server.opts.Log.WarnContext(ctx, "no names for clones", "address", at.Addr(), "error", err)
	}
	n.files[at] = file
	return file
}

// resolvConf is written so that names of clones need no domain. It names no other
// server: a clone that does not reach it would wait for it with each name that is
// none of ours. See resolv.conf(5).
func resolvConf(at netip.Addr) []byte {
	return fmt.Appendf(nil, "search %s\nnameserver %s\n", Domain, at)
}

// String says where names are answered, for people.
func (n *Names) String() string {
	var at []string
	for _, gateway := range n.gateways() {
		at = append(at, gateway.Addr().String())
	}
	return fmt.Sprintf("%s at %s", Domain, strings.Join(at, ", "))
}

// Verify tries again where it could not listen, and says where it still cannot.
func (n *Names) Verify(ctx context.Context) error {
	for _, gateway := range n.gateways() {
		n.listen(ctx, gateway)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, err := range n.failed {
		return network.WithHint(fmt.Errorf("clones do not find each other by name: %w", err),
			"have what listens on port 53 of all addresses leave these out, or set network.dns = false")
	}
	return nil
}
