package bridge

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/containerd/errdefs"
)

func TestChoose(t *testing.T) {
	var used []taken
	for i, c := range candidates {
		var skipped int
		got, err := choose(netip.Prefix{}, used, func(netip.Prefix, taken) { skipped++ })
		if err != nil || got != c || skipped != i {
			t.Errorf("candidate %d: %s after %d, %v", i, got, skipped, err)
		}
		used = append(used, taken{netip.PrefixFrom(c.Addr().Next(), 32), fmt.Sprint(i)})
	}
	if _, err := choose(netip.Prefix{}, used, func(netip.Prefix, taken) {}); !errdefs.IsResourceExhausted(err) {
		t.Errorf("all taken: %v", err)
	}
}
