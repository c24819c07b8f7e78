package kind

import (
	"testing"

	"github.com/ctrsnap/ctrsnap/network/netns"
)

func TestIs(t *testing.T) {
	for id, want := range map[string]bool{
		Clone.New(): true, "c0123456789a": true, Build.New(): false, "": false, "c": false, "c0123456789": false,
		"c0123456789ab": false, "c0123456789A": false, "c012345/789a": false, "c0123456789\n": false, "C0123456789a": false,
	} {
		if got := Clone.Is(id); got != want {
			t.Errorf("%q is a clone's: %v", id, got)
		}
	}
}

// TestGrammar: ids of all kinds are such as networks take.
func TestGrammar(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range []Kind{Build, Clone, Namespace, Sandbox} {
		id := k.New()
		if err := netns.CheckID(id); err != nil || !k.Is(id) || seen[id[1:]] {
			t.Errorf("%s: %q, %v", k, id, err)
		}
		seen[id[1:]] = true
	}
}
