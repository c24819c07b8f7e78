package firewall

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Numbers by which nft(8) knows how to print keys; the kernel does not look at
// them. Those of a concatenation are shifted by six bits each.
const (
	typeIPv4   = 7
	typeIPv6   = 8
	typeEther  = 9
	typeMark   = 19
	typeIndex  = 20
	typeIfname = 41
)

// set describes a set, or with values a map.
type set struct {
	name      string
	family    byte
	keyType   uint32
	keySize   uint32
	valueType uint32
	valueSize uint32
}

// The sets. A lease is a number other than 0.
var (
	// source: hardware address and address → lease
	source4 = set{"source4", unix.NFPROTO_NETDEV, typeEther<<6 | typeIPv4, 12, typeMark, 4}
	source6 = set{"source6", unix.NFPROTO_NETDEV, typeEther<<6 | typeIPv6, 24, typeMark, 4}
	// peer: lease and address → index of the bridge
	peer4 = set{"peer4", unix.NFPROTO_NETDEV, typeMark<<6 | typeIPv4, 8, typeIndex, 4}
	peer6 = set{"peer6", unix.NFPROTO_NETDEV, typeMark<<6 | typeIPv6, 20, typeIndex, 4}

	bridges  = set{"bridges", unix.NFPROTO_INET, typeIfname, unix.IFNAMSIZ, 0, 0}
	gateway4 = set{"gateway4", unix.NFPROTO_INET, typeIPv4, 4, 0, 0}
	gateway6 = set{"gateway6", unix.NFPROTO_INET, typeIPv6, 16, 0, 0}
	egress4  = set{"egress4", unix.NFPROTO_INET, typeIPv4, 4, 0, 0}
	egress6  = set{"egress6", unix.NFPROTO_INET, typeIPv6, 16, 0, 0}
	uplinks  = set{"uplinks", unix.NFPROTO_INET, typeIfname, unix.IFNAMSIZ, 0, 0}

	sets = []set{source4, source6, peer4, peer6, bridges, gateway4, gateway6, egress4, egress6, uplinks}
)

// element is a key of a set, with its value in a map.
type element struct {
	set     *set
	key     string
	value   string
	comment string
}

// elements are those of a namespace whose lease has a number.
func (c Clone) elements(id string, number uint32) (all []element) {
	mac := string(c.MAC) + "\x00\x00" // padded to registers
	lease, index := native(number), native(uint32(c.Bridge))
	for _, a := range c.Addrs {
		source, peer, egress := &source4, &peer4, &egress4
		if a.Is6() {
			source, peer, egress = &source6, &peer6, &egress6
		}
		addr := bytesOf(a)
		all = append(all, element{source, mac + addr, lease, id}, element{peer, lease + addr, index, ""})
		if c.Egress {
			all = append(all, element{egress, addr, "", ""})
		}
	}
	return all
}

func native(v uint32) string { return string(binary.NativeEndian.AppendUint32(nil, v)) }

func bytesOf(a netip.Addr) string { return string(a.AsSlice()) }

func ifname(name string) string {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return string(b)
}

// maxElements go into one message: the length of an attribute has 16 bits.
const maxElements = 200

// addSet makes a set.
func (b *batch) addSet(table string, s set, id uint32) {
	b.table(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, s.family, func() {
		b.str(unix.NFTA_SET_TABLE, table)
		b.str(unix.NFTA_SET_NAME, s.name)
		flags := uint32(0)
		if s.valueSize > 0 {
			flags = unix.NFT_SET_MAP
		}
		b.u32(unix.NFTA_SET_FLAGS, flags)
		b.u32(unix.NFTA_SET_KEY_TYPE, s.keyType)
		b.u32(unix.NFTA_SET_KEY_LEN, s.keySize)
		if s.valueSize > 0 {
			b.u32(unix.NFTA_SET_DATA_TYPE, s.valueType)
			b.u32(unix.NFTA_SET_DATA_LEN, s.valueSize)
		}
		b.u32(unix.NFTA_SET_ID, id)
		b.attr(unix.NFTA_SET_USERDATA, byteOrders(s))
	})
}

// byteOrders tells nft(8) which of key and value are in the host's byte order, in
// libnftnl's form: type, length, value of 4 bytes.
func byteOrders(s set) []byte {
	const host, network = 1, 2
	key, value := byte(network), byte(host)
	if s.keyType == typeIfname {
		key = host
	}
	return []byte{0, 4, key, 0, 0, 0, 1, 4, value, 0, 0, 0}
}

// change adds or removes elements.
func (b *batch) change(typ uint16, table string, list []element) {
	bySet := map[*set][]element{}
	for _, e := range list {
		bySet[e.set] = append(bySet[e.set], e)
	}
	for s, list := range bySet {
		for len(list) > 0 {
			n := min(len(list), maxElements)
			b.elements(typ, table, s, list[:n])
			list = list[n:]
		}
	}
}

func (b *batch) elements(typ uint16, table string, s *set, list []element) {
	flags := uint16(0)
	if typ == unix.NFT_MSG_NEWSETELEM {
		flags = unix.NLM_F_CREATE | unix.NLM_F_EXCL
	}
	b.table(typ, flags, s.family, func() {
		b.str(unix.NFTA_SET_ELEM_LIST_TABLE, table)
		b.str(unix.NFTA_SET_ELEM_LIST_SET, s.name)
		b.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func() {
			for _, e := range list {
				b.nest(unix.NFTA_LIST_ELEM, func() { b.element(e) })
			}
		})
	})
}

func (b *batch) element(e element) {
	b.nest(unix.NFTA_SET_ELEM_KEY, func() { b.attr(unix.NFTA_DATA_VALUE, []byte(e.key)) })
	if e.value != "" {
		b.nest(unix.NFTA_SET_ELEM_DATA, func() { b.attr(unix.NFTA_DATA_VALUE, []byte(e.value)) })
	}
	if e.comment != "" { // libnftnl's form: type 0, length, text with its NUL
		text := append([]byte(e.comment), 0)
		b.attr(unix.NFTA_SET_ELEM_USERDATA, append([]byte{0, byte(len(text))}, text...))
	}
}
