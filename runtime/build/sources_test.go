package build

import (
	"slices"
	"testing"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// TestKinds: each part that a request may have, but for a base, belongs to one kind of sources, and each source to one.
func TestKinds(t *testing.T) {
	for _, part := range api.Parts {
		var of []string
		for _, k := range kinds {
			if slices.Contains(k.parts, part) {
				of = append(of, k.flag)
			}
			if (k.take == nil) == (len(k.parts) > 0) || (k.say == nil) == (k.take == nil) {
				t.Errorf("%s comes neither as a part nor with the request, or as both", k.flag)
			}
		}
		if len(of) != 1 && part != api.PartArchive {
			t.Errorf("part %s is of %q", part, of)
		}
	}
	for name, src := range map[string]runtime.Sources{
		"none": {}, "init": {Init: []string{"a"}}, "dump": {Dump: "a"}, "url": {URL: "a"}, "dir": {Dir: true}, "exec": {Exec: []string{"a"}}, "mask": {Mask: []string{"a"}},
	} {
		n := 0
		for _, k := range kinds {
			if k.has(src) {
				n++
			}
		}
		if (name == "none") != (n == 0) || n > 1 {
			t.Errorf("%s is of %d kinds", name, n)
		}
	}
}
