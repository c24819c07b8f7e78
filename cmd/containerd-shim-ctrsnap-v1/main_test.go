package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"google.golang.org/protobuf/proto"
)

// What is encoded by hand is what containerd decodes.
func TestKilled(t *testing.T) {
	var r taskapi.DeleteResponse
	now := time.Unix(1_800_000_000, 0)
	if err := proto.Unmarshal(killed(now), &r); err != nil {
		t.Fatal(err)
	}
	if r.ExitStatus != 137 || !r.ExitedAt.AsTime().Equal(now) || r.Pid != 0 {
		t.Errorf("got %v", &r)
	}
}

// Both layouts of cgroups are looked at, and nothing else there.
func TestGoneBelow(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"memory/clones/a", "clones/b", "cpu"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "cgroup.procs"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{"/clones/a": false, "/clones/b": false, "/clones/c": true, "/clones/*": true} {
		if got := goneBelow(root, path); got != want {
			t.Errorf("%s: got %v, want %v", path, got, want)
		}
	}
	if goneBelow(filepath.Join(root, "none"), "/clones/c") {
		t.Error("nothing is left where nothing can be seen")
	}
}
