package access_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/access"
)

// TestPayers: ids that are given to a user are that user's, as the file says just now.
func TestPayers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "subuid")
	p := access.NewPayers(path)
	check := func(want map[int]int) {
		t.Helper()
		for uid, payer := range want {
			if got := p.Of(uid); got != payer {
				t.Errorf("%d is paid for by %d, want %d", uid, got, payer)
			}
		}
	}
	check(map[int]int{0: 0, 1000: 1000, 100000: 100000})
	write := func(text string, at int64) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Unix(at, 0), time.Unix(at, 0)); err != nil {
			t.Fatal(err)
		}
	}
	write("1000:100000:65536\ndaemon:165536:10\nno-such-user-here:300000:65536\nnonsense\n1001:0:1000\nroot:400000:65536\n", 1)
	check(map[int]int{
		0: 0, 1000: 1000, 99999: 99999, 100000: 1000, 165535: 1000, 165536: 1, 165545: 1, 165546: 165546, 300000: 300000,
		1: 1, 400000: 400000, // nobody becomes root's
	})
	write("1002:100000:65536\n", 2)
	check(map[int]int{100000: 1002, 165536: 165536})
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	check(map[int]int{100000: 100000})
}
