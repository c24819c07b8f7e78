package server

import (
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

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
	return r.WithContext(runtime.WithProgress(r.Context(), tell))
}
