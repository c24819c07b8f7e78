package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// networks is the flag --network, which is repeatable: names of networks, or a
// further interface as K=V[,K=V…].
type networks struct {
	names  []string
	attach []api.AttachRequest
}

func (n *networks) flag() cli.Flag {
	return &cli.GenericFlag{Name: "network", Value: n, Usage: "attach to `NAME[,NAME]` of 'ctrsnap net ls' in place of the default network, none is a unix socket only; " +
		"or give it a further interface as 'net attach' does: type=T,master=IF,ip=CIDR, also gateway, mac, vlan, ifname (repeatable)"}
}

// Set adds names, or an interface: no name has an equals sign.
func (n *networks) Set(s string) error {
	if !strings.Contains(s, "=") {
		n.names = append(n.names, commaList(s)...)
		return nil
	}
	var r api.AttachRequest
	fields := map[string]*string{"type": &r.Type, "master": &r.Master, "ip": &r.IP, "gateway": &r.Gateway, "mac": &r.MAC, "ifname": &r.IfName}
	var seen []string
	for _, part := range strings.Split(s, ",") {
		k, v, _ := strings.Cut(part, "=")
		field, known := fields[k]
		switch {
		case v == "" || slices.Contains(seen, k):
			return fmt.Errorf("%q: want KEY=VALUE, each once; names of networks go into a --network of their own", part)
		case known:
			*field = v
		case k == "vlan":
			var err error
			if r.VLAN, err = strconv.Atoi(v); err != nil {
				return fmt.Errorf("vlan %q is no number", v)
			}
		default:
			return fmt.Errorf("unknown key %q: want type, master, ip, gateway, mac, vlan or ifname", k)
		}
		seen = append(seen, k)
	}
	if err := oneOf("bridge", "macvlan", "ptp")(r.Type); err != nil {
		return fmt.Errorf("type %q: %w", r.Type, err)
	}
	n.attach = append(n.attach, r)
	return nil
}

func (n *networks) String() string { return "" }

// Get is for the parser.
func (n *networks) Get() any { return n }

// apply completes a request.
func (n *networks) apply(req *api.CloneRequest) { req.Networks, req.Attach = n.names, n.attach }
