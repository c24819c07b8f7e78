package main

import (
	"strings"
	"testing"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

func TestWarningsAreShownWhateverIsWanted(t *testing.T) {
	for _, quiet := range []bool{true, false} {
		var out strings.Builder
		p := &progress{w: &out, fd: -1, quiet: quiet}
		p.event(api.BuildEvent{Type: api.EventWarning, Warning: "shop.sql:3:\nSET x left out"})
		if out.String() != "warning: shop.sql:3:; SET x left out\n" {
			t.Errorf("quiet %v: %q", quiet, out.String())
		}
	}
}
