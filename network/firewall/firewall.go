// Package firewall keeps clones apart with nf_tables: those of one lease reach
// each other, nobody else; the host reaches all of them, they reach the host's
// name service and, where they may, what is beyond. network/DESIGN.md has the
// rules and the reasons.
//
// All is in two tables of one name, one of each family needed. What is done for
// one clone is one transaction of a few elements; rules are written when
// bridges change.
package firewall

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// PortGroup is the group of links (IFLA_GROUP) that bridge ports of clones are
// to be in: what comes in at such a link itself is dropped.
const PortGroup = 0x63747273

// Bridge is what clones are attached to.
type Bridge struct {
	Name     string
	Gateways []netip.Addr // the host's addresses
}

// Clone is a namespace as the rules see it.
type Clone struct {
	MAC    net.HardwareAddr // of its interface
	Addrs  []netip.Addr
	Bridge int    // index of the bridge's link
	Lease  string // "" is a lease of its own
	Egress bool
}

// Firewall is what the kernel was told. It is safe for concurrent use.
type Firewall struct {
	table string

	mu      sync.Mutex
	socket  *socket
	bridges []Bridge
	uplinks []string
	no6     bool             // see SetUnrouted6
	clones  map[string]Clone // by id
	leases  leases
	deleted bool // by ourselves
}

// New prepares the tables of an owner, such as a state directory. Nothing is
// changed before [Firewall.Reset].
func New(owner string) *Firewall {
	sum := sha256.Sum256([]byte(owner))
	return &Firewall{table: "ctrsnap-" + hex.EncodeToString(sum[:4]), clones: map[string]Clone{}, leases: newLeases()}
}

// Table is the name of the tables.
func (f *Firewall) Table() string { return f.table }

// Reset replaces all that there is in one transaction.
//
// Errors: NotImplemented for a kernel that lacks a part of nf_tables.
func (f *Firewall) Reset(bridges []Bridge, clones map[string]Clone) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bridges, f.clones = slices.Clone(bridges), maps.Clone(clones)
	return f.rebuild()
}

// SetBridges says which bridges there are.
func (f *Firewall) SetBridges(bridges []Bridge) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bridges = slices.Clone(bridges)
	return f.rebuild()
}

// SetUplinks says from which links the host forwards for the answers to clones
// alone.
func (f *Firewall) SetUplinks(links []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if slices.Equal(links, f.uplinks) {
		return nil
	}
	f.uplinks = slices.Clone(links)
	return f.rebuild()
}

// SetUnrouted6 says whether the host routes no IPv6 of clones: the kernel would
// drop it before any rule for what is forwarded, and tell nobody.
func (f *Firewall) SetUnrouted6(unrouted bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if unrouted == f.no6 {
		return nil
	}
	f.no6 = unrouted
	return f.rebuild()
}

// rebuild replaces tables and elements by what is known. The caller holds mu.
func (f *Firewall) rebuild() error {
	b := newBatch()
	b.destroy(f.table)
	b.addTables(f.table, f.bridges)
	if f.no6 {
		b.addChain(f.table, unix.NFPROTO_INET, "unrouted", &hook{"filter", unix.NF_INET_PRE_ROUTING, -100, "", accept}, unrouted6(f.bridges)...)
	}
	var list []element
	for _, br := range f.bridges {
		list = append(list, element{set: &bridges, key: ifname(br.Name)})
		for _, a := range br.Gateways {
			s := &gateway4
			if a.Is6() {
				s = &gateway6
			}
			list = append(list, element{set: s, key: bytesOf(a)})
		}
	}
	for _, name := range f.uplinks {
		list = append(list, element{set: &uplinks, key: ifname(name)})
	}
	ls := newLeases()
	for id, c := range f.clones {
		list = append(list, c.elements(id, ls.join(id, c.Lease))...)
	}
	b.change(unix.NFT_MSG_NEWSETELEM, f.table, list)
	if err := f.commit(b); err != nil {
		return fmt.Errorf("write firewall %s: %w", f.table, classify(err))
	}
	f.leases, f.deleted = ls, false
	return nil
}

// classify says that a kernel lacks nf_tables or an expression.
func classify(err error) error {
	for _, missing := range []unix.Errno{unix.EOPNOTSUPP, unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, unix.ENOENT, unix.EINVAL} {
		if errors.Is(err, missing) {
			return fmt.Errorf("%w: %w", errdefs.ErrNotImplemented, err)
		}
	}
	return err
}

// Put adds a namespace, or changes what it may, in one transaction.
func (f *Firewall) Put(id string, c Clone) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.update(id, &c); err != nil {
		return fmt.Errorf("let %s through firewall %s: %w", id, f.table, err)
	}
	return nil
}

// Drop forgets a namespace. It is idempotent.
func (f *Firewall) Drop(id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.clones[id]; !ok {
		return nil
	}
	if err := f.update(id, nil); err != nil {
		return fmt.Errorf("take %s out of firewall %s: %w", id, f.table, err)
	}
	return nil
}

// update replaces what is known of an id, by nothing with nil. Where the tables
// are not what was written, because somebody flushed them, all is written anew.
// The caller holds mu.
func (f *Firewall) update(id string, c *Clone) error {
	was, had := f.clones[id]
	err := f.exchange(id, c)
	set := func(c *Clone) {
		if delete(f.clones, id); c != nil {
			f.clones[id] = *c
		}
	}
	if err == nil {
		set(c)
		return nil
	}
	if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EEXIST) {
		return err
	}
	set(c)
	if err := f.rebuild(); err != nil {
		if set(nil); had {
			set(&was)
		}
		return err
	}
	return nil
}

// exchange removes the elements of an id and adds others.
func (f *Firewall) exchange(id string, c *Clone) error {
	was, had := f.clones[id]
	b := newBatch()
	if had {
		b.change(unix.NFT_MSG_DELSETELEM, f.table, was.elements(id, f.leases.number(id, was.Lease)))
	}
	if c != nil { // joined before the old lease is left: it may be the same
		b.change(unix.NFT_MSG_NEWSETELEM, f.table, c.elements(id, f.leases.join(id, c.Lease)))
	}
	err := f.commit(b)
	switch {
	case err != nil && c != nil:
		f.leases.leave(id, c.Lease)
	case err == nil && had:
		f.leases.leave(id, was.Lease)
	}
	return err
}

// commit sends a batch. The caller holds mu.
func (f *Firewall) commit(b *batch) (err error) {
	if f.socket == nil {
		if f.socket, err = openSocket(); err != nil {
			return err
		}
	}
	return f.socket.commit(b)
}

// Close lets go of the kernel; rules stay. It is idempotent.
func (f *Firewall) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.socket == nil {
		return nil
	}
	err := unix.Close(f.socket.fd)
	f.socket = nil
	return err
}

// Delete deletes the tables. It is idempotent.
func (f *Firewall) Delete() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := newBatch()
	b.destroy(f.table)
	f.deleted = true // what watches has to know before
	if err := f.commit(b); err != nil {
		return fmt.Errorf("delete firewall %s: %w", f.table, classify(err))
	}
	return nil
}
