package server

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

type progressKey struct{}

// Progress returns what takes the place in the queue of the request that ctx
// is of, from 1, and the time that it may take. It may be called from any
// goroutine until the request is answered, and is never nil.
func Progress(ctx context.Context) func(place int, estimate time.Duration) {
	if tell, ok := ctx.Value(progressKey{}).(func(int, time.Duration)); ok {
		return tell
	}
	return func(int, time.Duration) {}
}

// withProgress has a client that asked for it told by answers ahead of the real one.
func withProgress(w http.ResponseWriter, r *http.Request) *http.Request {
	if r.Header.Get(api.HeaderQueue) == "" {
		return r
	}
	var mu sync.Mutex
	tell := func(place int, estimate time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		w.Header().Set(api.HeaderQueue, fmt.Sprintf("%d %s", place, estimate.Round(time.Millisecond)))
		w.WriteHeader(http.StatusProcessing)
		w.Header().Del(api.HeaderQueue)
	}
	return r.WithContext(context.WithValue(r.Context(), progressKey{}, tell))
}
