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
	// What an error leaves behind is nothing.
	//
	// Errors (containerd/errdefs): AlreadyExists for an id that exists or a
	// wanted address that is taken, InvalidArgument for a wanted address that
	// is not of this network, NotImplemented for what this network cannot do.
	Add(ctx context.Context, id string, opts Options) (Namespace, error)
	// Assign gives a namespace that was made ahead to those who will use it:
	// from when it returns, Lease and Egress of opts hold in place of those that
	// it was added with; Addr is not looked at. It takes well below a
	// millisecond and changes nothing inside the namespace, which may be in use.
	// After an error the old options hold. An id that has no namespace is
	// NotFound.
	Assign(ctx context.Context, id string, opts Options) error
	// Remove detaches and deletes the namespace of id. It is idempotent, also
	// for an id that is half made or half removed.
	Remove(ctx context.Context, id string) error
	// Namespaces returns the ids of all namespaces that exist, whole or not.
	Namespaces(ctx context.Context) ([]string, error)
}

// Options say who may reach a namespace and what it may reach. The zero value
// is reached by the host alone and reaches nothing.
type Options struct {
	// Lease names who holds the namespace, in at most 200 bytes: those of one
	// lease reach each other. "" is a lease of its own.
	Lease string
	// Egress lets it reach what is beyond the host.
	Egress bool
	// Addr is the wanted IPv4 address; zero takes any.
	Addr netip.Addr
	// Networks are the names of those to be attached to, comma-separated, the
	// first with eth0; "" is the default one. A Provider of one network has it
	// "" always.
	Networks string
}

// Namespace is a network namespace that a container can join.
type Namespace struct {
	ID   string
	Path string // of the namespace's bind mount, for OCI linux.namespaces[].path
	// Addrs are the addresses of the first interface, IPv4 first.
	Addrs []netip.Addr
}
