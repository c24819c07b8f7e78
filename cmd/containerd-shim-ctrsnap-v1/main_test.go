package main

import (
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
