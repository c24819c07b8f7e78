package dial

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// resolveTimeout bounds the search for an address.
const resolveTimeout = 15 * time.Second

// Resolve returns an address of one host, by its name or address: a minimal root filesystem knows no name server, and the one that is
// connected to is to be the one that is looked at. A list of hosts is none: InvalidArgument, as what has no address.
func Resolve(ctx context.Context, host string) (netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap(), nil
	}
	if host == "" || strings.ContainsAny(host, ",/@ \x00") {
		return netip.Addr{}, fmt.Errorf("%.80q is not one host: %w", host, errdefs.ErrInvalidArgument)
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err == nil && len(addrs) == 0 {
		err = fmt.Errorf("lookup %s: no address", host)
	}
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return addrs[0].Unmap(), nil
}
