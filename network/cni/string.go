package cni

import "fmt"

// String says what clones are attached to, for people.
func (n *Network) String() string {
	if n.bridge == nil {
		return fmt.Sprintf("CNI network %s", n.list.Name)
	}
	return fmt.Sprintf("bridge %s, subnet %s", n.bridge.Name, n.bridge.Subnet)
}
