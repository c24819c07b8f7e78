package publish

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/network"
)

// Address is where a clone is to be published.
type Address struct {
	IP   netip.Addr // zero is all addresses of the host
	Port uint16     // 0 is a free one
}

// Parse reads [IP:]PORT. An address without a port, and port 0, take a free one.
//
// Errors: InvalidArgument, with a hint.
func Parse(s string) (a Address, err error) {
	ip, port := "", s
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		ip, port = a.String(), ""
	} else if i := strings.LastIndexByte(s, ':'); i >= 0 {
		ip, port = strings.Trim(s[:i], "[]"), s[i+1:]
	}
	if port != "" {
		var n uint64
		n, err = strconv.ParseUint(port, 10, 16)
		a.Port = uint16(n) //nolint:gosec // it has 16 bits
	}
	if ip != "" && err == nil {
		a.IP, err = netip.ParseAddr(ip)
	}
	if err != nil || a.IP.Zone() != "" || a.IP.Is4In6() || a.IP.IsMulticast() {
		return Address{}, network.WithHint(
			fmt.Errorf("invalid address %.64q to publish at: want [IP:]PORT: %w", s, errdefs.ErrInvalidArgument),
			"5433, 127.0.0.1:5433, [::1]:5433, or 0 for a free port; the server's own port is not given")
	}
	if a.IP.IsUnspecified() && a.IP.Is6() {
		a.IP = netip.Addr{} // as a server that listens there
	}
	return a, nil
}

// String is the form that Parse reads.
func (a Address) String() string {
	if !a.IP.IsValid() {
		return strconv.Itoa(int(a.Port))
	}
	return netip.AddrPortFrom(a.IP, a.Port).String()
}

// listen is what net.Listen takes.
func (a Address) listen() (network, address string) {
	switch {
	case !a.IP.IsValid():
		return "tcp", ":" + strconv.Itoa(int(a.Port))
	case a.IP.Is4():
		return "tcp4", a.String()
	}
	return "tcp6", a.String()
}
