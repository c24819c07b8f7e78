package bridge

import (
	"fmt"
	"strings"
)

// String says what clones are attached to, for people.
func (n *Network) String() string {
	var all []string
	for _, l := range n.all() {
		all = append(all, fmt.Sprintf("bridge %s, subnet %s", l.bridge.Name, l.bridge.Subnet))
	}
	return strings.Join(all, "; ")
}
