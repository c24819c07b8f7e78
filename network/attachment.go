package network

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"

	"github.com/containerd/errdefs"
)

// Types of further interfaces, named after the plugins that make them.
const (
	Bridge  = "bridge"  // a port of the master, a bridge
	Macvlan = "macvlan" // a child of the master with a hardware address of its own
	PTP     = "ptp"     // a link to the host alone
)

// Values of AttachRequest.IP beside an address.
const (
	IPAM = "ipam" // a free one of the master's range
	DHCP = "dhcp" // what a server on the master's link gives
)

// MaxAttached is how many further interfaces one namespace can have.
const MaxAttached = 8

// AttachRequest says which further interface, on a network of the host, a namespace in use is to have.
type AttachRequest struct {
	Type    string
	Master  string // interface of the host; none for PTP
	IP      string // address with prefix length, or IPAM, or DHCP, or "" for none
	Gateway string // address that the default route leads to; "" for no default route
	MAC     string // "" for any
	VLAN    int    // id of 802.1Q, 0 for none
	IfName  string // in the namespace; "" takes the first free of eth1, eth2 …
}

// ifNameRE is what the kernel and CNI allow, less what is hard to read.
var ifNameRE = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,14}$`)

// Check finds what is wrong with a request by itself, as InvalidArgument.
func (r AttachRequest) Check() error {
	for _, check := range []func() error{r.checkType, r.checkNames, r.checkIP, r.checkGateway, r.checkMAC, r.checkVLAN} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %w", fmt.Errorf(format, args...), errdefs.ErrInvalidArgument)
}

func (r AttachRequest) checkType() error {
	switch r.Type {
	case Bridge, Macvlan:
		if r.Master == "" {
			return invalid("type %s needs a master: an interface of the host", r.Type)
		}
	case PTP:
		if r.Master != "" {
			return invalid("type %s has no master, but %.40q is named", r.Type, r.Master)
		}
	default:
		return invalid("unknown type %.40q: want bridge, macvlan or ptp", r.Type)
	}
	return nil
}

func (r AttachRequest) checkNames() error {
	for _, name := range []string{r.Master, r.IfName} {
		if name != "" && !ifNameRE.MatchString(name) {
			return invalid("invalid interface name %.40q", name)
		}
	}
	if r.IfName == "lo" || r.IfName == "eth0" {
		return fmt.Errorf("interface %s is the clone's own: %w", r.IfName, errdefs.ErrAlreadyExists)
	}
	return nil
}

func (r AttachRequest) checkIP() error {
	switch r.IP {
	case DHCP, IPAM:
		if r.Type == PTP {
			return invalid("type %s has no range to take an address of: give one, as in 192.0.2.7/24", r.Type)
		}
		return nil
	case "":
		if r.Type == PTP {
			return invalid("type %s needs an address, as in 192.0.2.7/24", r.Type)
		}
		return nil
	}
	p, err := netip.ParsePrefix(r.IP)
	switch {
	case err != nil:
		return invalid("invalid address %.60q: want one with its prefix length, as in 192.0.2.7/24", r.IP)
	case p.Addr().IsUnspecified(), p.Addr().IsLoopback(), p.Addr().IsMulticast(), p.Addr().Is4In6():
		return invalid("address %s cannot be that of an interface", r.IP)
	case p.Addr().Is4() && p.Bits() < 31 && (p.Addr() == p.Masked().Addr() || p.Addr() == Broadcast(p)):
		return invalid("address %s is that of its whole network", r.IP)
	}
	return nil
}

// Broadcast returns the last address of an IPv4 range.
func Broadcast(p netip.Prefix) netip.Addr {
	a := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		a[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(a)
}

func (r AttachRequest) checkGateway() error {
	if r.Gateway == "" {
		return nil
	}
	gw, err := netip.ParseAddr(r.Gateway)
	if err != nil {
		return invalid("invalid gateway %.60q: want an address", r.Gateway)
	}
	if r.IP == DHCP {
		return invalid("gateway %s: with dhcp it is the server's to say", gw)
	}
	p, err := netip.ParsePrefix(r.IP)
	if r.IP == IPAM {
		return nil // looked at when the range is known
	}
	if err != nil || !p.Contains(gw) || p.Addr() == gw {
		return invalid("gateway %s is not another address of %q", gw, r.IP)
	}
	return nil
}

func (r AttachRequest) checkMAC() error {
	if r.MAC == "" {
		return nil
	}
	mac, err := net.ParseMAC(r.MAC)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 || mac.String() == "00:00:00:00:00:00" {
		return invalid("invalid hardware address %.40q: want one of a host, as in 02:00:00:00:00:01", r.MAC)
	}
	if r.Type == PTP {
		return invalid("type %s takes no hardware address", r.Type)
	}
	return nil
}

func (r AttachRequest) checkVLAN() error {
	if r.VLAN < 0 || r.VLAN > 4094 {
		return invalid("VLAN %d is not within 1 and 4094", r.VLAN)
	}
	if r.VLAN != 0 && r.Type == PTP {
		return invalid("type %s has no VLAN", r.Type)
	}
	return nil
}

// Attachment is a further interface that a namespace has.
type Attachment struct {
	ID      string // whose it is
	IfName  string
	Type    string
	Master  string
	IP      string // with prefix length; "" without one
	Gateway string
	MAC     string
	VLAN    int
	DHCP    bool // IP and Gateway are from a server: "" before they are known
}

// Request asks for the same interface again.
func (att Attachment) Request() AttachRequest {
	r := AttachRequest{Type: att.Type, Master: att.Master, IP: att.IP, Gateway: att.Gateway, MAC: att.MAC, VLAN: att.VLAN, IfName: att.IfName}
	if att.DHCP {
		r.IP, r.Gateway = DHCP, "" // the server's to say
	}
	if att.Type == PTP {
		r.MAC = ""
	}
	return r
}
