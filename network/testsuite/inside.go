package testsuite

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/netns"
)

// MustAdd adds a namespace.
func MustAdd(t testing.TB, n network.Provider, id string) network.Namespace {
	t.Helper()
	ns, err := n.Add(t.Context(), id, network.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// MustRemove removes a namespace.
func MustRemove(t testing.TB, n network.Provider, id string) {
	t.Helper()
	if err := n.Remove(t.Context(), id); err != nil {
		t.Fatal(err)
	}
}

// Inside runs fn on a thread in a namespace.
func Inside(t testing.TB, ns network.Namespace, fn func() error) {
	t.Helper()
	if err := netns.Inside(ns.Path, fn); err != nil {
		t.Error(err)
	}
}

// Serve listens in a namespace until the end of the test.
func Serve(t testing.TB, ns network.Namespace) (addr string) {
	t.Helper()
	Inside(t, ns, func() error {
		l, err := net.Listen("tcp4", "0.0.0.0:0")
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = l.Close() })
		port := l.Addr().(*net.TCPAddr).Port
		addr = netip.AddrPortFrom(ns.Addrs[0], uint16(port)).String()
		return nil
	})
	return addr
}

// Dial connects from the namespace of the calling thread.
func Dial(addr string) error {
	c, err := net.DialTimeout("tcp", addr, 500*time.Millisecond)
	if err != nil {
		return err
	}
	return c.Close()
}

// Hint returns the advice in an error.
func Hint(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}
