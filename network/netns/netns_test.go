package netns_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

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
	inside := func() (threads []string) {
		all, err := filepath.Glob("/proc/self/task/*/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		return slices.DeleteFunc(all, func(thread string) bool {
			ns, err := os.Stat(thread)
			return err != nil || !os.SameFile(ns, made)
		})
	}
	deadline := time.After(10 * time.Second)
	for tick := time.NewTicker(time.Millisecond); len(inside()) > 0; { // the last one is just ending
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("still in the namespace: %v", inside())
		}
	}
}
