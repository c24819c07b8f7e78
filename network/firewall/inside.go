package firewall

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// insideTable is the table within a clone's own network namespace.
const insideTable = "ctrsnap"

// Inside are the rules within a clone's own network namespace, for networks where
// the host sees none of what clones send each other. They hold because a clone has
// no capability: it can neither change them nor send past them. They say what it
// begins; whom it answers is not looked at.
type Inside struct {
	Interfaces []string     // that the rules are for; others are somebody else's
	Peers      []netip.Addr // that it reaches
	Egress     bool         // it reaches all but Kept, too
	Kept       []netip.Prefix
}

// The sets of the rules within.
var (
	insideInterfaces = set{"interfaces", unix.NFPROTO_INET, typeIfname, unix.IFNAMSIZ, 0, 0}
	insidePeers4     = set{"peers4", unix.NFPROTO_INET, typeIPv4, 4, 0, 0}
	insidePeers6     = set{"peers6", unix.NFPROTO_INET, typeIPv6, 16, 0, 0}
)

// Write replaces the rules of the namespace that the calling thread is in.
//
// Errors: NotImplemented for a kernel that lacks a part of nf_tables.
func (i Inside) Write() error {
	b := newBatch()
	b.addTable(insideTable, unix.NFPROTO_INET)
	b.table(unix.NFT_MSG_DELTABLE, 0, unix.NFPROTO_INET, func() { b.str(unix.NFTA_TABLE_NAME, insideTable) })
	b.addTable(insideTable, unix.NFPROTO_INET)
	for n, s := range []set{insideInterfaces, insidePeers4, insidePeers6} {
		b.addSet(insideTable, s, uint32(n+1)) //nolint:gosec // there are three
	}
	h := &hook{kind: "filter", number: unix.NF_INET_LOCAL_OUT, policy: accept}
	b.addChain(insideTable, unix.NFPROTO_INET, "output", h, i.rules()...)
	list := peersOf(i.Peers)
	for _, name := range i.Interfaces {
		list = append(list, element{set: &insideInterfaces, key: ifname(name)})
	}
	b.change(unix.NFT_MSG_NEWSETELEM, insideTable, list)
	return commitOnce(b)
}

// AddPeers and DropPeers change whom the clone reaches whose namespace the
// calling thread is in.
func AddPeers(addrs []netip.Addr) error { return changePeers(unix.NFT_MSG_NEWSETELEM, addrs) }

// DropPeers is the reverse of AddPeers.
func DropPeers(addrs []netip.Addr) error { return changePeers(unix.NFT_MSG_DELSETELEM, addrs) }

func changePeers(typ uint16, addrs []netip.Addr) error {
	if len(addrs) == 0 {
		return nil
	}
	b := newBatch()
	b.change(typ, insideTable, peersOf(addrs))
	return commitOnce(b)
}

func peersOf(addrs []netip.Addr) (list []element) {
	for _, a := range addrs {
		s := &insidePeers4
		if a.Is6() {
			s = &insidePeers6
		}
		list = append(list, element{set: s, key: bytesOf(a)})
	}
	return list
}

// commitOnce talks to the namespace of the calling thread. Nobody waits for the
// socket to be closed: see [socket].
func commitOnce(b *batch) error {
	s, err := openSocket()
	if err != nil {
		return err
	}
	err = s.commit(b)
	go func() { _ = unix.Close(s.fd) }()
	if err != nil {
		return fmt.Errorf("write firewall of namespace: %w", classifyInside(err))
	}
	return nil
}

// classifyInside leaves out what says that the table is not there.
func classifyInside(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return err
	}
	return classify(err)
}

// rules are those of the chain. Neighbours are asked for without a connection: types
// 135 and 136 of ICMPv6, RFC 4861.
func (i Inside) rules() [][]expr {
	rules := [][]expr{
		{meta(unix.NFT_META_OIFNAME, 0), notIn(insideInterfaces.name, 0), verdict(accept)},
		concat(known(), []expr{verdict(accept)}),
		concat(ipv4(), []expr{payload(nh, ip4Dst, ip4Size, 0), in(insidePeers4.name, 0), verdict(accept)}),
		concat(ipv6(), []expr{payload(nh, ip6Dst, ip6Size, 0), in(insidePeers6.name, 0), verdict(accept)}),
	}
	for _, typ := range []byte{135, 136} {
		rules = append(rules, []expr{
			meta(unix.NFT_META_L4PROTO, 0), equal(0, unix.IPPROTO_ICMPV6), payload(th, 0, 1, 0), equal(0, typ), verdict(accept),
		})
	}
	if i.Egress {
		for _, p := range slices.Concat(i.Kept, trusting) {
			rules = append(rules, concat(toRange(p), []expr{reject()}))
		}
		rules = append(rules, []expr{verdict(accept)})
	}
	return append(rules, []expr{reject()})
}

// trusting are addresses of services that tell whoever asks from a host that host's own secrets, as its cloud's do of metadata. Nobody
// reaches them, with egress neither.
var trusting = []netip.Prefix{
	netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fe80::/10"), // RFC 3927 and 4291: link-local; 169.254.169.254 among them
	netip.MustParsePrefix("fd00:ec2::/32"),      // Amazon's
	netip.MustParsePrefix("100.100.100.200/32"), // Alibaba's
	netip.MustParsePrefix("168.63.129.16/32"),   // Azure's
}

// toRange matches what goes to a range.
func toRange(p netip.Prefix) []expr {
	family, offset := ipv4(), uint32(ip4Dst)
	if p.Addr().Is6() {
		family, offset = ipv6(), ip6Dst
	}
	size := uint32(p.Addr().BitLen() / 8) //nolint:gosec // 4 or 16
	mask := slices.Repeat([]byte{0}, int(size))
	for bit := range p.Bits() {
		mask[bit/8] |= 1 << (7 - bit%8)
	}
	return concat(family, []expr{payload(nh, offset, size, 0), and(0, mask), equal(0, p.Masked().Addr().AsSlice()...)})
}
