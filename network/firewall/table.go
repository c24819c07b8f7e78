package firewall

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// families are those that have a table: netdev sees what comes from clones
// before anything else does, inet has connections and addresses.
var families = []byte{unix.NFPROTO_NETDEV, unix.NFPROTO_INET}

// Headers: where addresses and ports are.
const (
	ll, nh, th = unix.NFT_PAYLOAD_LL_HEADER, unix.NFT_PAYLOAD_NETWORK_HEADER, unix.NFT_PAYLOAD_TRANSPORT_HEADER

	etherSource      = 6
	ip4Src, ip4Dst   = 12, 16
	ip6Src, ip6Dst   = 8, 24
	portDst          = 2
	dnsPort          = 53
	ip4Size, ip6Size = 4, 16
)

// hook is where a chain is called.
type hook struct {
	kind     string // filter or nat
	number   uint32
	priority int32
	device   string
	policy   uint32
}

// destroy has a table gone, whether it is there or not.
func (b *batch) destroy(name string) {
	for _, family := range families {
		b.addTable(name, family)
		b.table(unix.NFT_MSG_DELTABLE, 0, family, func() { b.str(unix.NFTA_TABLE_NAME, name) })
	}
}

func (b *batch) addTable(name string, family byte) {
	b.table(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, family, func() { b.str(unix.NFTA_TABLE_NAME, name) })
}

// addChain makes a chain with its rules; without a hook it is called by others.
func (b *batch) addChain(table string, family byte, name string, h *hook, rules ...[]expr) {
	b.table(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, family, func() {
		b.str(unix.NFTA_CHAIN_TABLE, table)
		b.str(unix.NFTA_CHAIN_NAME, name)
		if h == nil {
			return
		}
		b.nest(unix.NFTA_CHAIN_HOOK, func() {
			b.u32(unix.NFTA_HOOK_HOOKNUM, h.number)
			b.u32(unix.NFTA_HOOK_PRIORITY, uint32(h.priority))
			if h.device != "" {
				b.str(unix.NFTA_HOOK_DEV, h.device)
			}
		})
		b.u32(unix.NFTA_CHAIN_POLICY, h.policy)
		b.str(unix.NFTA_CHAIN_TYPE, h.kind)
	})
	for _, rule := range rules {
		b.table(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, family, func() {
			b.str(unix.NFTA_RULE_TABLE, table)
			b.str(unix.NFTA_RULE_CHAIN, name)
			b.nest(unix.NFTA_RULE_EXPRESSIONS, func() {
				for _, e := range rule {
					e(b)
				}
			})
		})
	}
}

// addTables writes tables, sets, chains and rules; elements come after.
func (b *batch) addTables(name string, bridges []Bridge) {
	for _, family := range families {
		b.addTable(name, family)
	}
	for i, s := range sets {
		b.addSet(name, s, uint32(i+1))
	}
	b.addChain(name, unix.NFPROTO_NETDEV, "clone", nil, fromClone()...)
	for _, br := range bridges {
		h := &hook{kind: "filter", number: unix.NF_NETDEV_INGRESS, device: br.Name, policy: drop}
		b.addChain(name, unix.NFPROTO_NETDEV, "from-"+br.Name, h, []expr{jump("clone")})
	}
	for _, c := range []struct {
		name  string
		hook  hook
		rules [][]expr
	}{
		{"ports", hook{"filter", unix.NF_INET_PRE_ROUTING, -300, "", accept}, atPort()},
		{"input", hook{"filter", unix.NF_INET_LOCAL_IN, 0, "", accept}, toHost()},
		{"forward", hook{"filter", unix.NF_INET_FORWARD, 0, "", accept}, forwarded()},
		{"masquerade", hook{"nat", unix.NF_INET_POST_ROUTING, 100, "", accept}, outgoing()},
	} {
		b.addChain(name, unix.NFPROTO_INET, c.name, &c.hook, c.rules...)
	}
}

// fromClone decides about what comes from clones: nothing but IP with the
// addresses of the sender; what is for another clone of its lease goes there at
// once, by no chain, route or forwarding of the host's. The bridge sees to it
// that the hardware address is that of the port.
//
// The lease of the sender is the packet's mark meanwhile. A packet that comes
// from another network namespace has none, and nobody else gets to see it.
func fromClone() [][]expr {
	ip4, ip6 := protocol(unix.ETH_P_IP), protocol(unix.ETH_P_IPV6)
	mac := payload(ll, etherSource, 6, 0)
	mark := meta(unix.NFT_META_MARK, 0)
	return [][]expr{
		concat(ip4, []expr{mac, payload(nh, ip4Src, ip4Size, 2), mapped(source4.name, 0, 0), setMark(0)}),
		concat(ip6, []expr{mac, payload(nh, ip6Src, ip6Size, 2), mapped(source6.name, 0, 0), setMark(0)}),
		{mark, equal(0, 0, 0, 0, 0), verdict(drop)},
		concat(ip4, []expr{
			mark, payload(nh, ip4Dst, ip4Size, 1), mapped(peer4.name, 0, 2),
			payload(nh, ip4Dst, ip4Size, 3), forward(2, 3, unix.NFPROTO_IPV4),
		}),
		concat(ip6, []expr{
			mark, payload(nh, ip6Dst, ip6Size, 1), mapped(peer6.name, 0, 5),
			payload(nh, ip6Dst, ip6Size, 6), forward(5, 6, unix.NFPROTO_IPV6),
		}),
		{load(0, 0, 0, 0, 0), setMark(0), verdict(accept)},
	}
}

// protocol compares the protocol of a frame.
func protocol(p uint16) []expr {
	return []expr{meta(unix.NFT_META_PROTOCOL, 0), equal(0, binary.BigEndian.AppendUint16(nil, p)...)}
}

// atPort drops what a port takes in itself, as it does with frames for the
// addresses that 802.1D keeps from being bridged: the rules know bridges.
func atPort() [][]expr {
	group := binary.NativeEndian.AppendUint32(nil, PortGroup)
	return [][]expr{{meta(unix.NFT_META_IIFGROUP, 0), equal(0, group...), verdict(drop)}}
}

// unrouted6 answers clones that begin something beyond the host where it routes
// no IPv6: it is before routing, but after connections are known. What is for the
// bridges' own subnets, each a /64, is not its affair: with br_netfilter it is
// called before what a bridge takes in is seen by the netdev chains.
func unrouted6(to []Bridge) [][]expr {
	from := concat([]expr{meta(unix.NFT_META_IIFNAME, 0), in(bridges.name, 0)}, ipv6())
	rules := [][]expr{concat(from, known(), []expr{verdict(accept)})}
	for _, br := range to {
		for _, gw := range br.Gateways {
			if gw.Is6() {
				rules = append(rules, concat(from, []expr{payload(nh, ip6Dst, 8, 0), equal(0, gw.AsSlice()[:8]...), verdict(accept)}))
			}
		}
	}
	return append(rules, concat(from, []expr{reject()}))
}

// toHost lets clones answer the host and ask for names, and nothing else.
func toHost() [][]expr {
	from := []expr{meta(unix.NFT_META_IIFNAME, 0)}
	rules := [][]expr{
		concat(from, []expr{notIn(bridges.name, 0), verdict(accept)}),
		concat(known(), []expr{verdict(accept)}),
	}
	for _, proto := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		dns := []expr{
			meta(unix.NFT_META_L4PROTO, 0), equal(0, proto),
			payload(th, portDst, 2, 0), equal(0, 0, dnsPort), verdict(accept),
		}
		rules = append(rules,
			concat(ipv4(), []expr{payload(nh, ip4Dst, ip4Size, 0), in(gateway4.name, 0)}, dns),
			concat(ipv6(), []expr{payload(nh, ip6Dst, ip6Size, 0), in(gateway6.name, 0)}, dns))
	}
	return append(rules, []expr{reject()})
}

func ipv4() []expr { return []expr{meta(unix.NFT_META_NFPROTO, 0), equal(0, unix.NFPROTO_IPV4)} }
func ipv6() []expr { return []expr{meta(unix.NFT_META_NFPROTO, 0), equal(0, unix.NFPROTO_IPV6)} }

// forwarded decides about what the host routes: to clones from containers of
// this host, from clones only where they may. Where the host forwards from its
// uplinks only because clones need the answers, all else stays as it was.
func forwarded() [][]expr {
	to := []expr{meta(unix.NFT_META_OIFNAME, 0), in(bridges.name, 0)}
	from := []expr{meta(unix.NFT_META_IIFNAME, 0), in(bridges.name, 0)}
	uplink := []expr{meta(unix.NFT_META_IIFNAME, 0), in(uplinks.name, 0)}
	rules := [][]expr{
		concat(from, to, []expr{reject()}),
		concat(from, known(), []expr{verdict(accept)}),
	}
	for _, p := range trusting {
		rules = append(rules, concat(from, toRange(p), []expr{reject()}))
	}
	rules = append(rules, [][]expr{
		concat(from, ipv4(), []expr{payload(nh, ip4Src, ip4Size, 0), in(egress4.name, 0), verdict(accept)}),
		concat(from, ipv6(), []expr{payload(nh, ip6Src, ip6Size, 0), in(egress6.name, 0), verdict(accept)}),
		concat(from, []expr{reject()}),
		concat(to, known(), []expr{verdict(accept)}),
		concat(uplink, []expr{verdict(drop)}),
	}...)
	for _, kind := range []string{"bridge", "veth"} { // the links of containers
		rules = append(rules, concat(to, []expr{meta(metaIIFKind, 0), equal(0, []byte(ifname(kind))...), verdict(accept)}))
	}
	return append(rules, concat(to, []expr{verdict(drop)}))
}

// outgoing gives what leaves for the outside the host's address.
func outgoing() [][]expr {
	notTo := []expr{meta(unix.NFT_META_OIFNAME, 0), notIn(bridges.name, 0)}
	return [][]expr{
		concat(notTo, ipv4(), []expr{payload(nh, ip4Src, ip4Size, 0), in(egress4.name, 0), masquerade()}),
		concat(notTo, ipv6(), []expr{payload(nh, ip6Src, ip6Size, 0), in(egress6.name, 0), masquerade()}),
	}
}
