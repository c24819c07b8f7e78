// Package network is the contract of how clones are reached: each has a
// network namespace of its own with at least one address. The packages below
// implement it, named after what they wrap.
package network

import (
	"context"
	"net/netip"
)

// Provider makes and removes network namespaces. It is safe for concurrent
// use and keeps what it made across restarts of the process.
type Provider interface {
	// Add makes the network namespace of id and attaches it to the network.
	// What an error leaves behind is nothing. An id that exists already is
	// AlreadyExists (containerd/errdefs).
	Add(ctx context.Context, id string) (Namespace, error)
	// Remove detaches and deletes the namespace of id. It is idempotent, also
	// for an id that is half made or half removed.
	Remove(ctx context.Context, id string) error
	// Namespaces returns the ids of all namespaces that exist, whole or not.
	Namespaces(ctx context.Context) ([]string, error)
}

// Namespace is a network namespace that a container can join.
type Namespace struct {
	ID   string
	Path string // of the namespace's bind mount, for OCI linux.namespaces[].path
	// Addrs are the addresses of the first interface, IPv4 first.
	Addrs []netip.Addr
}
