package firewall

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// cloneSets are those whose elements are of clones, by what comes before the address in their keys, in
// bytes: see [Clone.elements].
var cloneSets = map[*set]int{&source4: 8, &source6: 8, &peer4: 4, &peer6: 4, &egress4: 0, &egress6: 0}

// Stray lists the elements and chains in the tables that no namespace and no bridge that is known has, by
// name for people.
func (f *Firewall) Stray() ([]string, error) {
	found, err := f.stray()
	if err != nil || len(found) == 0 {
		return nil, err
	}
	// What was dropped while the kernel was asked is not there any more.
	f.mu.Lock()
	defer f.mu.Unlock()
	again, err := f.strayNow()
	return slices.DeleteFunc(found, func(s string) bool { return !slices.Contains(again, s) }), err
}

// stray asks the kernel before it takes the lock, which whoever makes a clone waits for.
func (f *Firewall) stray() ([]string, error) {
	have, err := f.dump()
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.unknown(have), err
}

// strayNow is for who holds mu.
func (f *Firewall) strayNow() ([]string, error) {
	have, err := f.dump()
	return f.unknown(have), err
}

// unknown leaves out what was written for clones and bridges. The caller holds mu.
func (f *Firewall) unknown(have []string) []string {
	known := map[string]bool{"chain clone": true, "chain ports": true, "chain input": true, "chain forward": true, "chain masquerade": true, "chain unrouted": f.no6}
	for _, br := range f.bridges {
		known["chain from-"+br.Name] = true
	}
	for id, c := range f.clones {
		for _, e := range c.elements(id, f.leases.number(id, c.Lease)) {
			known[e.String()] = true
		}
	}
	return slices.DeleteFunc(have, func(s string) bool { return known[s] })
}

// Clean writes all anew if there is anything stray. It is idempotent.
func (f *Firewall) Clean() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	found, err := f.strayNow()
	if err != nil || len(found) == 0 {
		return err
	}
	return f.rebuild()
}

// Foreign lists the elements whose address is of none of the clones: what an earlier process has left, which
// numbered leases otherwise. It is for before [Firewall.Reset].
func (f *Firewall) Foreign(clones map[string]Clone) (all []string, err error) {
	known := map[netip.Addr]bool{}
	for _, c := range clones {
		for _, a := range c.Addrs {
			known[a] = true
		}
	}
	err = f.elements(func(e element) {
		if !known[e.addr()] {
			all = append(all, e.String())
		}
	})
	slices.Sort(all)
	return all, err
}

// dump lists what is in the tables: nothing if they are not there.
func (f *Firewall) dump() (all []string, _ error) {
	err := f.elements(func(e element) { all = append(all, e.String()) })
	for _, family := range families {
		err = errors.Join(err, get(unix.NFT_MSG_GETCHAIN, family, func(attrs attributes) {
			if attrs.text(unix.NFTA_CHAIN_TABLE) == f.table {
				all = append(all, "chain "+attrs.text(unix.NFTA_CHAIN_NAME))
			}
		}))
	}
	slices.Sort(all)
	return all, err
}

// elements calls fn with those of clones.
func (f *Firewall) elements(fn func(element)) error {
	for s := range cloneSets {
		err := get(unix.NFT_MSG_GETSETELEM, s.family, func(attrs attributes) {
			attrs.each(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(list attributes) {
				list.each(unix.NFTA_LIST_ELEM, func(e attributes) {
					e.each(unix.NFTA_SET_ELEM_KEY, func(key attributes) { fn(element{set: s, key: key.value(unix.NFTA_DATA_VALUE)}) })
				})
			})
		}, nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_TABLE, nl.ZeroTerminated(f.table)), nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_SET, nl.ZeroTerminated(s.name)))
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("list elements of firewall %s: %w", f.table, err)
		}
	}
	return nil
}

// addr is the address at the end of a key.
func (e element) addr() netip.Addr {
	a, _ := netip.AddrFromSlice([]byte(e.key[min(cloneSets[e.set], len(e.key)):]))
	return a
}

// String names an element of a clone: set, hardware address or lease, address.
func (e element) String() string {
	s := e.set.name
	switch cloneSets[e.set] {
	case 8:
		s += " " + net.HardwareAddr(e.key[:6]).String()
	case 4:
		s += fmt.Sprintf(" %x", e.key[:4])
	}
	return s + " " + e.addr().String()
}

// attributes are those of a message of nf_tables, or within one.
type attributes []syscall.NetlinkRouteAttr

// get has the kernel list things of a family.
func get(typ int, family byte, fn func(attributes), attrs ...nl.NetlinkRequestData) error {
	for {
		req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|typ, unix.NLM_F_DUMP)
		req.AddData(&nl.Nfgenmsg{NfgenFamily: family})
		for _, a := range attrs {
			req.AddData(a)
		}
		msgs, err := req.Execute(unix.NETLINK_NETFILTER, 0)
		if errors.Is(err, nl.ErrDumpInterrupted) {
			continue // somebody has changed something meanwhile
		}
		for _, m := range msgs {
			fn(attributesOf(m[nl.SizeofNfgenmsg:]))
		}
		return err
	}
}

func attributesOf(b []byte) attributes {
	list, _ := nl.ParseRouteAttr(b) // the kernel's
	return list
}

// each calls fn with what attributes of a type hold.
func (a attributes) each(typ uint16, fn func(attributes)) {
	for _, attr := range a {
		if attr.Attr.Type&^unix.NLA_F_NESTED == typ {
			fn(attributesOf(attr.Value))
		}
	}
}

// value is that of the first attribute of a type.
func (a attributes) value(typ uint16) string {
	for _, attr := range a {
		if attr.Attr.Type == typ {
			return string(attr.Value)
		}
	}
	return ""
}

func (a attributes) text(typ uint16) string { return strings.TrimRight(a.value(typ), "\x00") }
