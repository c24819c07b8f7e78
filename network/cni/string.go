package cni

import "strings"

// String says what clones are attached to, for people.
func (n *Network) String() string {
	names := make([]string, len(n.confs))
	for i, c := range n.confs {
		names[i] = c.Name
	}
	return "CNI network " + strings.Join(names, ", ")
}
