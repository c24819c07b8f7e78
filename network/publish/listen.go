package publish

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/network"
)

// listen takes the port of an address: from when it returns nobody else has it.
//
// Errors: AlreadyExists for a port that is taken, naming its owner where that is
// known, InvalidArgument for an address that is not this host's.
func listen(ctx context.Context, a Address) (*net.TCPListener, error) {
	var cfg net.ListenConfig
	family, at := a.listen()
	l, err := cfg.Listen(ctx, family, at)
	switch {
	case err == nil:
		return l.(*net.TCPListener), nil
	case errors.Is(err, unix.EADDRINUSE):
		by := owner(a)
		if by == "" {
			by = "somebody"
		}
		return nil, network.WithHint(
			fmt.Errorf("publish at %s: the port is taken by %s: %w", a, by, errdefs.ErrAlreadyExists),
			"choose another port, or 0 for a free one")
	case errors.Is(err, unix.EADDRNOTAVAIL), errors.Is(err, unix.EAFNOSUPPORT):
		return nil, network.WithHint(
			fmt.Errorf("publish at %s: this host has no address %s: %w", a, a.IP, errdefs.ErrInvalidArgument),
			"give an address of this host, or the port alone for all of them")
	}
	return nil, fmt.Errorf("publish at %s: %w", a, err)
}

// addressesOf tells where one connects to a listener: both families where it is
// one for both.
func addressesOf(l *net.TCPListener) []netip.AddrPort {
	at := l.Addr().(*net.TCPAddr).AddrPort()
	at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	if at.Addr() != netip.IPv6Unspecified() {
		return []netip.AddrPort{at}
	}
	return []netip.AddrPort{netip.AddrPortFrom(netip.IPv4Unspecified(), at.Port()), at}
}

// hasIPv6 says whether listening on all addresses means those of IPv6, too.
func hasIPv6() bool {
	l, err := net.Listen("tcp6", "[::]:0")
	if err != nil {
		return false
	}
	_ = l.Close()
	return true
}

// listenAll takes the ports of all addresses, or none.
func listenAll(ctx context.Context, at []Address) (all []*net.TCPListener, _ error) {
	for _, a := range at {
		l, err := listen(ctx, a)
		if err != nil {
			closeListeners(all)
			return nil, err
		}
		all = append(all, l)
	}
	return all, nil
}

func closeListeners(all []*net.TCPListener) {
	for _, l := range all {
		_ = l.Close()
	}
}
