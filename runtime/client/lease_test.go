package client_test

import (
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// TestLeaseLost holds a lease of a daemon that says all that a daemon may say: only its word that the lease is lost
// ends it.
func TestLeaseLost(t *testing.T) {
	refuse := func(status int, code api.Code, retryable bool) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			fmt.Fprintf(w, `{"error":{"code":%q,"message":"refused with %d","retryable":%v}}`, code, status, retryable)
		}
	}
	taken := func(rest string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, "{\"schema\":1,\"id\":\"l1\"}\n\n\n%s", rest)
		}
	}
	goes := []http.HandlerFunc{
		taken(`{"error":{"code":"general","message":"the daemon is stopping","retryable":true}}` + "\n"),
		taken("{"),
		refuse(http.StatusServiceUnavailable, api.CodeGeneral, true),
		refuse(http.StatusInternalServerError, api.CodeGeneral, false),
		taken(""), // and the client waits less before it tries again
		refuse(http.StatusInsufficientStorage, api.CodeCapacity, true),
		refuse(http.StatusGatewayTimeout, api.CodeTimeout, true),
		taken(""),
		func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		func(w http.ResponseWriter, r *http.Request) { taken("")(w, r); panic(http.ErrAbortHandler) },
		func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "busy", http.StatusBadGateway) },
		taken(""),
	}
	for name, test := range map[string]struct {
		last http.HandlerFunc
		code api.Code
	}{
		"unknown":     {refuse(http.StatusNotFound, api.CodeNotFound, false), api.CodeNotFound},
		"not allowed": {refuse(http.StatusForbidden, api.CodeNotAllowed, false), api.CodeNotAllowed},
		"protocol":    {refuse(http.StatusBadRequest, api.CodeGeneral, false), api.CodeGeneral},
		"ended":       {taken(`{"error":{"code":"not_found","message":"lease l1 has ended"}}` + "\n"), api.CodeNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			answers := slices.Concat([]http.HandlerFunc{taken("")}, goes, []http.HandlerFunc{test.last})
			var asked atomic.Int32
			c := listen(t, func(w http.ResponseWriter, r *http.Request) { answers[asked.Add(1)-1](w, r) })
			l, err := c.HoldLease(t.Context(), "l1")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			select {
			case <-l.Done():
			case <-time.After(30 * time.Second):
				t.Fatalf("not lost after %d answers", asked.Load())
			}
			if e := asError(t, l.Err()); e.Code != test.code || int(asked.Load()) != len(answers) {
				t.Errorf("got %+v after %d of %d answers", e, asked.Load(), len(answers))
			}
		})
	}
}
