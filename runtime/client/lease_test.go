package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
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

// TestFirstHoldIsRetried takes a lease of a daemon that stops just then, and is not there for a while.
func TestFirstHoldIsRetried(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	var asked atomic.Int32
	serve(t, path, func(w http.ResponseWriter, r *http.Request) {
		switch asked.Add(1) {
		case 1:
			panic(http.ErrAbortHandler)
		case 2:
			stopping(w, r)
		default:
			fmt.Fprint(w, `{"id":"l1"}`+"\n")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}
	})
	c, err := client.New("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	l, err := c.HoldLease(t.Context(), "l1")
	if err != nil || asked.Load() != 3 {
		t.Fatalf("%v after %d attempts", err, asked.Load())
	}
	l.Close()
	why := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(t.Context())
	c, err = client.New("unix://" + path + "-none")
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(50*time.Millisecond, func() { cancel(why) })
	if _, err := c.HoldLease(ctx, "l1"); !errors.Is(err, why) {
		t.Errorf("given up: %v", err)
	}
}

// TestOnAway: a request waits for a daemon that restarts, and says so once. It waits for none that was never there.
func TestOnAway(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	ask := func(ctx context.Context, path string) (told, sent int, err error) {
		c, err := client.New("unix://" + path)
		if err != nil {
			t.Fatal(err)
		}
		ctx = client.OnSent(client.OnAway(ctx, func() {
			if told++; told == 1 {
				serve(t, filepath.Join(dir, "s"), answers(stopping, stopping, answerVersion))
			}
		}), func() { sent++ })
		_, err = client.Do(ctx, c, api.GetVersion, api.None{})
		return told, sent, err
	}
	if told, sent, err := ask(t.Context(), path); err != nil || told != 1 || sent != 1 {
		t.Errorf("a daemon that starts: told %d times, sent %d times, %v", told, sent, err)
	}
	if told, _, err := ask(t.Context(), filepath.Join(dir, "none", "s")); err == nil || told != 0 {
		t.Errorf("no daemon: told %d times, %v", told, err)
	}
	broken := func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprint(w, `{"error":{"code":"general","message":"the disk has failed"}}`)
	}
	serve(t, filepath.Join(dir, "broken"), broken)
	if told, _, err := ask(t.Context(), filepath.Join(dir, "broken")); asError(t, err).Message != "the disk has failed" || told != 0 {
		t.Errorf("a daemon that is there: told %d times, %v", told, err)
	}
	c, err := client.New("unix://" + filepath.Join(dir, "none"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Do(t.Context(), c, api.GetVersion, api.None{}); asError(t, err).Code != api.CodeGeneral {
		t.Errorf("who does not wait: %v", err)
	}
}

func stopping(w http.ResponseWriter, _ *http.Request) {
	w.WriteHeader(http.StatusServiceUnavailable)
	fmt.Fprint(w, `{"error":{"code":"general","message":"the daemon is stopping","retryable":true}}`)
}

func answerVersion(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{}`) }

// answers gives one answer after the other, and then the last.
func answers(all ...http.HandlerFunc) http.HandlerFunc {
	var asked atomic.Int32
	return func(w http.ResponseWriter, r *http.Request) {
		all[min(int(asked.Add(1)), len(all))-1](w, r)
	}
}
