package firewall

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestStray has elements and a chain in the tables that nobody asked for: they are listed, by this process and
// by the next one, and taken out. What clones have stays.
func TestStray(t *testing.T) {
	f := New(t.Name())
	one := clone(1)
	one.Egress, one.Lease = true, "job"
	clones := map[string]Clone{"c1": one, "c2": clone(2)}
	mustReset(t, f, clones)
	found := func(want ...string) {
		t.Helper()
		got, err := f.Stray()
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%v %s", err, diff)
		}
	}
	found()
	before := sizes(t, f)
	lost := clone(9)
	lost.Egress = true
	b := newBatch()
	b.change(unix.NFT_MSG_NEWSETELEM, f.table, lost.elements("c9", 0x07070707))
	b.addChain(f.table, unix.NFPROTO_INET, "left", nil)
	if err := f.commit(b); err != nil {
		t.Fatal(err)
	}
	elements := []string{
		"egress4 10.64.0.9", "egress6 fd00:64::9", "peer4 07070707 10.64.0.9", "peer6 07070707 fd00:64::9",
		"source4 0a:58:0a:40:00:09 10.64.0.9", "source6 0a:58:0a:40:00:09 fd00:64::9",
	}
	found(append([]string{"chain left"}, elements...)...)
	next := New(t.Name())
	if got, err := next.Foreign(clones); err != nil || cmp.Diff(elements, got) != "" {
		t.Errorf("the next process finds %v, %v", got, err)
	}
	if err := f.Clean(); err != nil {
		t.Fatal(err)
	}
	found()
	if after := sizes(t, f); after != before {
		t.Errorf("elements %v, were %v", after, before)
	}
	if got, err := New("another").Stray(); err != nil || len(got) > 0 {
		t.Errorf("without tables: %v, %v", got, err)
	}
}
