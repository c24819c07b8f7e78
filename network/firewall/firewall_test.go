package firewall

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/ctrsnap/ctrsnap/network/testsuite"
)

func TestMain(m *testing.M) { testsuite.Main(m) }

func clone(i int) Clone {
	v4 := netip.AddrFrom4([4]byte{10, 64, byte(i >> 8), byte(i)})
	v6 := netip.MustParseAddr(fmt.Sprintf("fd00:64::%x", i))
	return Clone{MAC: net.HardwareAddr{10, 88, 10, 64, byte(i >> 8), byte(i)}, Addrs: []netip.Addr{v4, v6}, Bridge: 1}
}

// mustReset writes rules, which are deleted at the end, for a bridge.
func mustReset(t testing.TB, f *Firewall, clones map[string]Clone) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br0"
	link := &netlink.Bridge{LinkAttrs: attrs}
	if err := netlink.LinkAdd(link); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(link) })
	gateways := []netip.Addr{netip.MustParseAddr("10.64.0.1"), netip.MustParseAddr("fd00:64::1")}
	if err := f.Reset([]Bridge{{"br0", gateways}}, clones); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(f.Delete(), f.Delete(), f.Close(), f.Close()); err != nil {
			t.Error(err)
		}
		if left := testsuite.Tables(t); len(left) > 0 {
			t.Errorf("tables left: %v", left)
		}
	})
}

// sizes counts the elements of sets of clones.
func sizes(t testing.TB, f *Firewall) (n [6]int) {
	t.Helper()
	all := testsuite.Elements(t, f.Table())
	for i, name := range []string{"source4", "source6", "peer4", "peer6", "egress4", "egress6"} {
		n[i] = len(all[name])
	}
	return n
}

// mustAgree fails if the kernel has other elements than a new process would write.
func mustAgree(t testing.TB, f *Firewall) {
	t.Helper()
	// Numbers of leases differ: what is compared is who has the same.
	have := shape(testsuite.Elements(t, f.Table()))
	if err := f.Reset(f.bridges, maps.Clone(f.clones)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(shape(testsuite.Elements(t, f.Table())), have); diff != "" {
		t.Errorf("the kernel has (+), a new process would write (-):\n%s", diff)
	}
}

// shape replaces the numbers of leases by the first address with each.
func shape(sets map[string][]string) map[string][]string {
	names := map[string]string{}
	for _, set := range []string{"source4", "source6"} {
		for i, e := range sets[set] {
			key, lease := e[:len(e)-9], e[len(e)-8:]
			if names[lease] == "" {
				names[lease] = key
			}
			sets[set][i] = key + " " + names[lease]
		}
	}
	for _, set := range []string{"peer4", "peer6"} {
		for i, e := range sets[set] {
			sets[set][i] = names[e[:8]] + " " + e[8:]
		}
		slices.Sort(sets[set])
	}
	return sets
}

func TestPutAndDrop(t *testing.T) {
	f := New("x")
	mustReset(t, f, map[string]Clone{"a": clone(2)})
	c := clone(3)
	steps := []struct {
		do   func() error
		want [6]int
	}{
		{func() error { return nil }, [6]int{1, 1, 1, 1, 0, 0}},
		{func() error { return f.Put("b", c) }, [6]int{2, 2, 2, 2, 0, 0}},
		{func() error { return f.Put("b", c) }, [6]int{2, 2, 2, 2, 0, 0}},
		{func() error { c.Egress, c.Lease = true, "l"; return f.Put("b", c) }, [6]int{2, 2, 2, 2, 1, 1}},
		{func() error { return f.Drop("a") }, [6]int{1, 1, 1, 1, 1, 1}},
		{func() error { return f.Drop("a") }, [6]int{1, 1, 1, 1, 1, 1}},
		{func() error { return f.Drop("b") }, [6]int{}},
	}
	for i, s := range steps {
		if err := s.do(); err != nil {
			t.Errorf("step %d: %v", i, err)
		}
		if got := sizes(t, f); got != s.want {
			t.Errorf("step %d: sets have %v, want %v", i, got, s.want)
		}
	}
}

// TestFlushed has somebody delete the tables: the next change brings all back.
func TestFlushed(t *testing.T) {
	f := New("x")
	mustReset(t, f, map[string]Clone{"a": clone(2), "b": clone(3)})
	for i, change := range []func() error{
		func() error { return f.Put("c", clone(4)) }, func() error { return f.Put("a", clone(2)) },
	} {
		if err := f.Delete(); err != nil {
			t.Fatal(err)
		}
		if err := change(); err != nil {
			t.Error(err)
		}
		if got := sizes(t, f); got != [6]int{3, 3, 3, 3} {
			t.Errorf("change %d: sets have %v", i, got)
		}
	}
	if err := f.Delete(); err != nil {
		t.Fatal(err)
	}
	if err := f.Drop("a"); err != nil {
		t.Error(err)
	}
	mustAgree(t, f)
}

// TestWatch has somebody delete the tables again and again, and a table of
// their own.
func TestWatch(t *testing.T) {
	f := New("x")
	mustReset(t, f, map[string]Clone{"a": clone(2)})
	stop, err := f.Watch(func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		testsuite.DeleteTables(t)
		deadline := time.After(20 * time.Second)
		tick := time.NewTicker(time.Millisecond)
		for sizes(t, f) != [6]int{1, 1, 1, 1} || f.Verify() != nil {
			select {
			case <-tick.C:
			case <-deadline:
				t.Fatalf("sets have %v", sizes(t, f))
			}
		}
		tick.Stop()
	}
	stop()
	testsuite.DeleteTables(t)
	if err := f.Verify(); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("verify without tables: %v", err)
	}
}

// TestOthersAreLeftAlone has two owners, and a table of somebody else's.
func TestOthersAreLeftAlone(t *testing.T) {
	one, two := New("one"), New("two")
	mustReset(t, one, map[string]Clone{"a": clone(2)})
	if err := two.Reset(nil, map[string]Clone{"a": clone(2)}); err != nil {
		t.Fatal(err)
	}
	theirs := newBatch()
	theirs.addTable("filter", unix.NFPROTO_INET)
	if err := one.commit(theirs); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(two.Drop("a"), two.Delete(), two.Close()); err != nil {
		t.Fatal(err)
	}
	if got := sizes(t, one); got != [6]int{1, 1, 1, 1} {
		t.Errorf("sets of the other have %v", got)
	}
	gone := newBatch()
	gone.table(unix.NFT_MSG_DELTABLE, 0, unix.NFPROTO_INET, func() { gone.str(unix.NFTA_TABLE_NAME, "filter") })
	if err := one.commit(gone); err != nil {
		t.Errorf("the table of somebody else's: %v", err)
	}
}

// TestManyAtOnce writes more than one message of elements, and then compares
// random changes with what a new process would write.
func TestManyAtOnce(t *testing.T) {
	clones := map[string]Clone{}
	for i := range 1200 {
		clones[fmt.Sprint("c", i)] = clone(i + 10)
	}
	f := New("x")
	mustReset(t, f, clones)
	if got := sizes(t, f); got != [6]int{1200, 1200, 1200, 1200} {
		t.Errorf("sets have %v", got)
	}
	rapid.Check(t, func(rt *rapid.T) {
		for range 5 {
			i := rapid.IntRange(0, 30).Draw(rt, "clone")
			c := clone(i + 2000)
			c.Lease = rapid.SampledFrom([]string{"", "l1", "l2"}).Draw(rt, "lease")
			c.Egress = rapid.Bool().Draw(rt, "egress")
			var err error
			if rapid.Bool().Draw(rt, "put") {
				err = f.Put(fmt.Sprint("r", i), c)
			} else {
				err = f.Drop(fmt.Sprint("r", i))
			}
			if err != nil {
				rt.Fatal(err)
			}
		}
	})
	mustAgree(t, f)
}

func BenchmarkPut(b *testing.B) {
	clones := map[string]Clone{}
	for i := range 1200 {
		clones[fmt.Sprint("c", i)] = clone(i + 10)
	}
	f := New("b")
	mustReset(b, f, clones)
	c := clone(5)
	for b.Loop() {
		c.Egress = !c.Egress
		if err := f.Put("x", c); err != nil {
			b.Fatal(err)
		}
	}
}
