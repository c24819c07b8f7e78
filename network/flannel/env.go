package flannel

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/network"
)

// DefaultSubnetFile is where flanneld writes what it has leased, unless told
// otherwise.
const DefaultSubnetFile = "/run/flannel/subnet.env"

// Env is what flanneld says of this host.
type Env struct {
	Network, IPv6Network netip.Prefix // of all hosts
	Subnet, IPv6Subnet   netip.Prefix // leased to this host
	MTU                  uint         // bytes
	IPMasq               bool         // flanneld masquerades: nobody else is to
}

// ReadEnv reads a file of flanneld's. A file that is missing or has not all
// of it is Unavailable: flanneld does not run, or not yet.
func ReadEnv(path string) (Env, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		err = fmt.Errorf("read flannel's lease: %w: %w", err, errdefs.ErrUnavailable)
		return Env{}, network.WithHint(err, "is flanneld running on this host?")
	}
	env, err := ParseEnv(string(b))
	if err != nil {
		return Env{}, network.WithHint(fmt.Errorf("read flannel's lease %s: %w", path, err), "is flanneld running on this host?")
	}
	return env, nil
}

// ParseEnv reads the lines K=V of such a file; lines with other keys are of no
// concern.
func ParseEnv(text string) (env Env, err error) {
	seen := map[string]bool{}
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), "=")
		if !ok {
			continue
		}
		if err := env.set(key, value); err != nil {
			return Env{}, fmt.Errorf("%s: %w: %w", key, err, errdefs.ErrUnavailable)
		}
		seen[key] = true
	}
	return env, missing(seen)
}

func (e *Env) set(key, value string) (err error) {
	switch key {
	case "FLANNEL_NETWORK":
		e.Network, err = prefix(value)
	case "FLANNEL_SUBNET":
		e.Subnet, err = prefix(value)
	case "FLANNEL_IPV6_NETWORK":
		e.IPv6Network, err = prefix(value)
	case "FLANNEL_IPV6_SUBNET":
		e.IPv6Subnet, err = prefix(value)
	case "FLANNEL_MTU":
		var mtu uint64
		mtu, err = strconv.ParseUint(value, 10, 32)
		e.MTU = uint(mtu)
	case "FLANNEL_IPMASQ":
		e.IPMasq = value == "true"
	}
	return err
}

// prefix reads an address with its prefix length: flanneld gives the subnet by
// its first address.
func prefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	return p.Masked(), err
}

func missing(seen map[string]bool) error {
	var errs []error
	for _, want := range [][]string{
		{"FLANNEL_NETWORK", "FLANNEL_IPV6_NETWORK"}, {"FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET"}, {"FLANNEL_MTU"}, {"FLANNEL_IPMASQ"},
	} {
		found := false
		for _, key := range want {
			found = found || seen[key]
		}
		if !found {
			errs = append(errs, fmt.Errorf("%s is missing: %w", strings.Join(want, " or "), errdefs.ErrUnavailable))
		}
	}
	return errors.Join(errs...)
}

// Contains says whether an address is of the host's lease.
func (e Env) Contains(a netip.Addr) bool { return e.Subnet.Contains(a) || e.IPv6Subnet.Contains(a) }

// String names the leased subnets.
func (e Env) String() string {
	var s []string
	for _, p := range []netip.Prefix{e.Subnet, e.IPv6Subnet} {
		if p.IsValid() {
			s = append(s, p.String())
		}
	}
	return strings.Join(s, " ")
}
