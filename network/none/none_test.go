package none

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/netns"
	"github.com/ctrsnap/ctrsnap/network/testsuite"
)

func TestMain(m *testing.M) { testsuite.Main(m) }

func open(_ context.Context, c testsuite.Config) (testsuite.Network, func() error, error) {
	n, err := Open(c.StateDir)
	return n, func() error { return nil }, err
}

// TestNothingButLoopback looks for interfaces and routes, and has an answer over
// loopback, which a server in it may need.
func TestNothingButLoopback(t *testing.T) {
	n := testsuite.MustOpen(t, open, testsuite.Setup(t))
	ns, err := n.Add(t.Context(), "ca", network.Options{Lease: "l"})
	if err != nil || len(ns.Addrs) > 0 {
		t.Fatalf("got %+v, %v", ns, err)
	}
	if all, err := netns.Interfaces(ns.Path); err != nil || len(all) > 0 {
		t.Errorf("interfaces %v, %v", all, err)
	}
	err = netns.OnNewThread(func() error {
		f, err := os.Open(ns.Path)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer l.Close()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			return err
		}
		defer c.Close()
		if out, err := net.Dial("udp", "192.0.2.1:53"); err == nil {
			return fmt.Errorf("a route to %s", out.RemoteAddr())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestLifeOfANamespace(t *testing.T) {
	cfg := testsuite.Setup(t)
	n := testsuite.MustOpen(t, open, cfg)
	if _, err := n.Add(t.Context(), "ca", network.Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Add(t.Context(), "ca", network.Options{}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("add again: %v", err)
	}
	again, _, err := open(t.Context(), cfg) // as after a crash
	if err != nil {
		t.Fatal(err)
	}
	if ids, err := again.Namespaces(t.Context()); err != nil || len(ids) != 1 || ids[0] != "ca" {
		t.Errorf("namespaces %v, %v", ids, err)
	}
	if err := again.Teardown(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("tear down: %v", err)
	}
	if err := again.Assign(t.Context(), "ca", network.Options{Lease: "l"}); err != nil {
		t.Errorf("assign: %v", err)
	}
	for range 2 {
		if err := again.Remove(t.Context(), "ca"); err != nil {
			t.Errorf("remove: %v", err)
		}
	}
	if err := again.Assign(t.Context(), "ca", network.Options{}); !errdefs.IsNotFound(err) {
		t.Errorf("assign what is gone: %v", err)
	}
}

func TestWhatIsNotToBeHad(t *testing.T) {
	n := testsuite.MustOpen(t, open, testsuite.Setup(t))
	for _, opts := range []network.Options{{Egress: true}, {Addr: netip.MustParseAddr("192.0.2.7")}} {
		if _, err := n.Add(t.Context(), "ca", opts); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", opts, err)
		}
	}
	if _, err := n.Add(t.Context(), "../ca", network.Options{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("id: %v", err)
	}
	if ids, _ := n.Namespaces(t.Context()); len(ids) > 0 {
		t.Errorf("left: %v", ids)
	}
	if _, err := Open("here"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("open: %v", err)
	}
}
