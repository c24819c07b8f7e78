package failpoint

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestFailpoints: a step fails from the visit on that was asked for, and no other.
func TestFailpoints(t *testing.T) {
	visits := filepath.Join(t.TempDir(), "visits")
	f, err := open("golden.sync=error@2,clone.kept=nospace", visits)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		part, step string
		want       error
	}{
		{"golden", "sync", nil},
		{"golden", "sync", ErrInjected},
		{"golden", "sync", ErrInjected},
		{"golden", "other", nil},
		{"clone", "kept", syscall.ENOSPC},
	} {
		if err := f.Of(tt.part)(tt.step); !errors.Is(err, tt.want) {
			t.Errorf("%s.%s: %v, want %v", tt.part, tt.step, err, tt.want)
		}
	}
	if got, _ := os.ReadFile(visits); string(got) != "golden.sync\ngolden.other\nclone.kept\n" {
		t.Errorf("visits: %q", got)
	}
	if f, err := open("", ""); err != nil || f.Of("golden") != nil {
		t.Errorf("without any: %v, %v", f, err)
	}
	for _, bad := range []string{"x", "x=y", "x=kill@0", "x=kill@y"} {
		if _, err := open(bad, ""); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}
