package netns_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/ctrsnap/ctrsnap/network/netns"
)

// TestNothingKeepsNamespace runs functions inside of a namespace on whatever threads
// the runtime has, the first of the process among them.
func TestNothingKeepsNamespace(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	path, err := netns.Make(t.TempDir(), "n")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Delete(path); err != nil {
			t.Error(err)
		}
	})
	failure := errors.New("failure")
	for range 2000 {
		err := netns.Inside(path, func() error {
			have, err := os.Stat("/proc/thread-self/ns/net")
			if err != nil {
				return err
			}
			want, err := os.Stat(path)
			if err != nil {
				return err
			}
			if !os.SameFile(have, want) {
				t.Error("a function ran in another namespace")
			}
			return failure
		})
		if !errors.Is(err, failure) {
			t.Fatal(err)
		}
	}
	made, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	threads, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		if ns, err := os.Stat(thread); err == nil && os.SameFile(ns, made) {
			t.Errorf("%s is still in the namespace", thread)
		}
	}
}
