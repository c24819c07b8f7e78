package firewall

// leases gives numbers to leases. The rules are written anew by each process,
// and the numbers with them.
type leases struct {
	byName map[string]*lease
	used   map[uint32]bool
	last   uint32
}

type lease struct {
	number  uint32
	members int
}

func newLeases() leases { return leases{byName: map[string]*lease{}, used: map[uint32]bool{}} }

// nameOf tells those that somebody named from that of an id alone.
func nameOf(id, name string) string {
	if name == "" {
		return "id " + id
	}
	return "lease " + name
}

// join counts a member of a lease and returns its number, which is not 0.
func (s *leases) join(id, name string) uint32 {
	name = nameOf(id, name)
	l := s.byName[name]
	if l == nil {
		for s.last++; s.last == 0 || s.used[s.last]; s.last++ {
		}
		l = &lease{number: s.last}
		s.byName[name], s.used[l.number] = l, true
	}
	l.members++
	return l.number
}

func (s *leases) number(id, name string) uint32 { return s.byName[nameOf(id, name)].number }

// leave uncounts a member. The number of a lease without any is free.
func (s *leases) leave(id, name string) {
	name = nameOf(id, name)
	l := s.byName[name]
	if l == nil {
		return
	}
	if l.members--; l.members == 0 {
		delete(s.byName, name)
		delete(s.used, l.number)
	}
}
