package main

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/ctrsnap/ctrsnap/network/netns"
)

// rangesFor is how long the host's ranges of containers are believed: links come and go.
const rangesFor = 5 * time.Second

// containers knows which addresses containers of this host have, by the links
// behind which they are. It is safe for concurrent use.
type containers struct {
	mu     sync.Mutex
	looked time.Time
	ranges []netip.Prefix
}

// have says whether an address is of a container. It looks at the host's links now
// and then: a flood of queries is no flood of those.
func (c *containers) have(a netip.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) > rangesFor {
		if ranges, err := netns.ContainerRanges(); err == nil {
			c.ranges, c.looked = ranges, time.Now()
		}
	}
	return slices.ContainsFunc(c.ranges, func(p netip.Prefix) bool { return p.Contains(a) })
}
