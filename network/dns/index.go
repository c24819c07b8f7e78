package dns

import (
	"net/netip"
	"strings"
	"sync"
)

// index finds clones by what is asked for.
type index struct {
	version uint64
	names   map[string][]*Clone     // by owner name without the zone: pr-42, shop.lease
	parents map[string][]*Clone     // the same, by names between those and the zone: they exist, too (RFC 8020)
	addrs   map[netip.Addr][]*Clone // for reverse names
	local   map[netip.Addr]*Clone   // who asks
}

// cache has the index of a Directory, and makes it anew when that has changed: a
// query costs the same however many clones there are.
type cache struct {
	mu sync.Mutex
	ix *index
}

func (c *cache) get(dir Directory) *index {
	version := dir.NamesVersion() // first: what changes meanwhile is noticed the next time
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ix == nil || c.ix.version != version {
		c.ix = newIndex(version, dir.Names())
	}
	return c.ix
}

func newIndex(version uint64, clones []Clone) *index {
	ix := &index{
		version: version, names: map[string][]*Clone{}, parents: map[string][]*Clone{},
		addrs: map[netip.Addr][]*Clone{}, local: map[netip.Addr]*Clone{},
	}
	for i := range clones {
		ix.add(&clones[i])
	}
	return ix
}

func (ix *index) add(c *Clone) {
	if len(c.Addrs) == 0 {
		return // a name without an address helps nobody
	}
	ix.names[c.ID] = append(ix.names[c.ID], c)
	if c.Name != "" && c.Name != c.ID {
		ix.names[c.Name] = append(ix.names[c.Name], c)
	}
	if c.Lease != "" {
		lease := strings.ToLower(c.Lease)
		ix.names[c.Golden+"."+lease] = append(ix.names[c.Golden+"."+lease], c)
		ix.parents[lease] = append(ix.parents[lease], c)
	}
	for _, a := range c.Addrs {
		ix.addrs[a] = append(ix.addrs[a], c)
		if c.Local {
			ix.local[a] = c
		}
	}
}

// view is what one who asks may see.
type view struct {
	*index
	all  bool
	self *Clone
}

// view returns what an address may see; ok is false for strangers.
func (s *Server) view(from netip.Addr) (v view, ok bool) {
	v.index = s.index.get(s.dir)
	if v.self = v.local[from]; v.self == nil {
		v.all = s.isHost(from) || s.opts.IsContainer != nil && s.opts.IsContainer(from)
	}
	return v, v.all || v.self != nil
}

func (v view) sees(c *Clone) bool {
	return v.all || c == v.self || c.Lease != "" && c.Lease == v.self.Lease
}

// goesBeyond says whether what one asks for may leave this host.
func (v view) goesBeyond() bool { return v.all || v.self.Egress }

// of returns those that are seen. Which of several users' clones the host means by a name
// that all of them gave, nobody knows: it must not be led to the wrong one.
func (v view) of(clones []*Clone) (seen []*Clone) {
	for _, c := range clones {
		if v.all && c.Owner != clones[0].Owner {
			return nil
		}
		if v.sees(c) {
			seen = append(seen, c)
		}
	}
	return seen
}

// find returns the clones of a name, and those that make it exist without
// being its own. service is that of an SRV name, with its labels taken away.
func (v view) find(name string) (clones []*Clone, service string, exists bool) {
	first, rest, _ := strings.Cut(name, ".")
	if !strings.HasPrefix(first, "_") {
		clones = v.of(v.names[name])
		if len(clones) == 0 && v.self != nil && v.self.Lease != "" {
			clones = v.names[name+"."+strings.ToLower(v.self.Lease)] // a golden's, of its own lease
		}
		return clones, "", len(clones)+len(v.of(v.parents[name])) > 0
	}
	if first == "_tcp" {
		return nil, "", len(served(v.of(v.names[rest]), "")) > 0
	}
	proto, rest, _ := strings.Cut(rest, ".")
	if proto != "_tcp" {
		return nil, "", false
	}
	clones = served(v.of(v.names[rest]), first[1:])
	return clones, first[1:], len(clones) > 0
}

// served returns the clones with a service; "" is any.
func served(clones []*Clone, service string) (list []*Clone) {
	for _, c := range clones {
		if c.Service != "" && (service == "" || c.Service == service) {
			list = append(list, c)
		}
	}
	return list
}

// host is the name that a clone is known by.
func (c *Clone) host() string {
	if c.Name != "" {
		return c.Name + "." + Zone
	}
	return c.ID + "." + Zone
}
