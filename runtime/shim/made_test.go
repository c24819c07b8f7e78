package shim

import (
	"sync"
	"testing"
	"testing/synctest"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
)

// TestContainerBeingMade: one that is being made is waited for, and then is there or not.
func TestContainerBeingMade(t *testing.T) {
	for name, made := range map[string]*container{"made": {id: "c"}, "failed": nil} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &Service{containers: map[string]*container{"c": nil}}
				s.made = sync.NewCond(&s.mu)
				var got *container
				var err error
				done := false
				go func() { got, err = s.container("c"); done = true }()
				synctest.Wait()
				if done {
					t.Fatal("did not wait")
				}
				s.mu.Lock()
				if made != nil {
					s.containers["c"] = made
				} else {
					delete(s.containers, "c")
				}
				s.made.Broadcast()
				s.mu.Unlock()
				synctest.Wait()
				if !done || got != made || (made == nil) != errdefs.IsNotFound(errgrpc.ToNative(err)) {
					t.Errorf("got %v, %v", got, err)
				}
			})
		})
	}
}
