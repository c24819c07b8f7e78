package firewall

import (
	"fmt"
	"math"
	"testing"

	"pgregory.net/rapid"
)

// TestLeases compares numbers with what they are for: one for those of a lease,
// different ones for all others, never 0, also where numbers begin anew.
func TestLeases(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newLeases()
		s.last = math.MaxUint32 - rapid.Uint32Range(0, 5).Draw(t, "last")
		members := map[string]string{} // by id, the name
		for range 40 {
			id := fmt.Sprint(rapid.IntRange(0, 9).Draw(t, "id"))
			if name, ok := members[id]; ok {
				s.leave(id, name)
				delete(members, id)
				continue
			}
			members[id] = rapid.SampledFrom([]string{"", "a", "b", "id 1"}).Draw(t, "lease")
			if n := s.join(id, members[id]); n == 0 || n != s.number(id, members[id]) {
				t.Fatalf("number %d", n)
			}
			for a, x := range members {
				for b, y := range members {
					same := a == b || x == y && x != ""
					if (s.number(a, x) == s.number(b, y)) != same {
						t.Fatalf("%s of %q and %s of %q", a, x, b, y)
					}
				}
			}
		}
	})
}
