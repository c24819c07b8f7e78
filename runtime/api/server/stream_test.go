package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

func TestLogs(t *testing.T) {
	ctx := testContext(t)
	f := newFake()
	f.clones["c1"] = api.Clone{ID: "c1"}
	_, c := serve(t, f)
	for _, tt := range []struct {
		tail   int
		follow bool
		want   string
	}{{-1, false, "tail=-1 follow=false\n"}, {0, true, "tail=0 follow=true\n"}, {20, false, "tail=20 follow=false\n"}} {
		var out strings.Builder
		if err := c.Logs(ctx, api.LogsArgs{ID: "c1", Tail: tt.tail, Follow: tt.follow}, &out); err != nil || out.String() != tt.want {
			t.Errorf("got %q, %v, want %q", out.String(), err, tt.want)
		}
	}
	wantCode(t, c.Logs(ctx, api.LogsArgs{ID: "c2", Tail: -1}, io.Discard), api.CodeNotFound, "clone c2")

	f.logs = func(context.Context, io.Writer) error { return nil }
	if err := c.Logs(ctx, api.LogsArgs{ID: "c1", Tail: -1}, io.Discard); err != nil {
		t.Errorf("empty log: %v", err)
	}
	f.logs = func(_ context.Context, w io.Writer) error {
		_, _ = io.WriteString(w, "half of it")
		return errors.New("disk is gone")
	}
	wantCode(t, c.Logs(ctx, api.LogsArgs{ID: "c1", Tail: -1}, io.Discard), api.CodeGeneral, "disk is gone")
}

// TestLogsFollow holds that a line is sent when it is written, and that
// client and daemon each can end it.
func TestLogsFollow(t *testing.T) {
	f := newFake()
	f.clones["c1"] = api.Clone{ID: "c1"}
	ended := make(chan struct{}, 2)
	f.logs = func(ctx context.Context, w io.Writer) error {
		_, _ = io.WriteString(w, "first\n")
		<-ctx.Done()
		ended <- struct{}{}
		return ctx.Err()
	}
	d, c := serve(t, f)
	follow := func(ctx context.Context) (first chan string, result chan error) {
		first, result = make(chan string, 1), make(chan error, 1)
		go func() {
			result <- c.Logs(ctx, api.LogsArgs{ID: "c1", Tail: -1, Follow: true}, writerFunc(func(p []byte) { first <- string(p) }))
		}()
		return first, result
	}
	ctx, cancel := context.WithCancel(testContext(t))
	first, result := follow(ctx)
	if got := <-first; got != "first\n" {
		t.Errorf("got %q", got)
	}
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	<-ended
	first, result = follow(testContext(t))
	<-first
	d.stop()
	wantCode(t, <-result, api.CodeGeneral, "daemon is stopping")
}

type writerFunc func(p []byte)

func (w writerFunc) Write(p []byte) (int, error) {
	w(p)
	return len(p), nil
}

func TestLease(t *testing.T) {
	f := newFake()
	released := make(chan error, 1)
	f.hold = func(ctx context.Context, _ string, held func()) error {
		held()
		<-ctx.Done()
		released <- context.Cause(ctx)
		return nil
	}
	d, c := serve(t, f)
	l, err := c.HoldLease(testContext(t), "l1")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	l.Close()
	if err := l.Err(); err != nil {
		t.Errorf("error of a closed lease: %v", err)
	}
	if cause := <-released; errors.Is(cause, runtime.ErrStopping) {
		t.Error("a client that closes its lease looks like a daemon that stops")
	}

	// A client that dies without a word.
	conn, err := net.Dial("unix", d.socket)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, "GET /v1/leases/l1 HTTP/1.1\r\nHost: a\r\n\r\n")
	buf := make([]byte, 1<<10)
	n := 0
	for !bytes.Contains(buf[:n], []byte(`{"schema":1,"id":"l1"}`+"\n")) || !bytes.HasSuffix(buf[:n], []byte("\r\n1\r\n\n\r\n")) { // kept alive
		m, err := conn.Read(buf[n:])
		if err != nil {
			t.Fatalf("%v after %q", err, buf[:n])
		}
		n += m
	}
	conn.Close()
	<-released

	// The lease ends while it is held.
	f.hold = func(_ context.Context, lease string, held func()) error {
		held()
		return notFound("lease", lease)
	}
	l, err = c.HoldLease(testContext(t), "l1")
	if err != nil {
		t.Fatal(err)
	}
	<-l.Done()
	wantCode(t, l.Err(), api.CodeNotFound, "lease l1")
	f.hold = nil
	_, err = c.HoldLease(testContext(t), "none")
	wantCode(t, err, api.CodeNotFound, "lease none")
}

// TestLeaseSurvivesRestart restarts the daemon under a lease, three times.
func TestLeaseSurvivesRestart(t *testing.T) {
	f := newFake()
	held, released := make(chan struct{}, 1), make(chan error, 1)
	f.hold = func(ctx context.Context, _ string, taken func()) error {
		taken()
		held <- struct{}{}
		<-ctx.Done()
		released <- context.Cause(ctx)
		return nil
	}
	socket := filepath.Join(t.TempDir(), "s")
	d := f.start(t, socket)
	l, err := dial(t, socket).HoldLease(testContext(t), "l1")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	<-held
	for range 3 {
		d.stop()
		if cause := <-released; !errors.Is(cause, runtime.ErrStopping) {
			t.Errorf("cause %v, want ErrStopping", cause)
		}
		d = f.start(t, socket)
		select {
		case <-held:
		case <-l.Done():
			t.Fatalf("lease was lost: %v", l.Err())
		case <-time.After(10 * time.Second):
			t.Fatal("lease was not taken up again")
		}
	}
	// A daemon that does not know it (any more) ends it.
	d.stop()
	<-released
	f.hold = nil
	f.start(t, socket)
	<-l.Done()
	wantCode(t, l.Err(), api.CodeNotFound, "lease l1")
}

// TestLeaseOfAbsentDaemon has the daemon away for longer than any restart takes: the lease is taken up again.
func TestLeaseOfAbsentDaemon(t *testing.T) {
	for _, away := range []time.Duration{5 * time.Second, 25 * time.Second, 35 * time.Second, time.Hour} {
		t.Run(away.String(), func(t *testing.T) {
			f := newFake()
			var holds atomic.Int32
			f.hold = func(ctx context.Context, lease string, taken func()) error {
				taken()
				if holds.Add(1) == 2 {
					return notFound("lease", lease) // which ends the test
				}
				<-ctx.Done()
				return nil
			}
			socket := filepath.Join(t.TempDir(), "s")
			d := f.start(t, socket)
			// A daemon in the bubble would keep its clock from going on.
			work, done := make(chan func()), make(chan struct{})
			defer close(work)
			go func() {
				for do := range work {
					do()
					done <- struct{}{}
				}
			}()
			outside := func(do func()) { work <- do; <-done }
			synctest.Test(t, func(bubble *testing.T) {
				l, err := dial(t, socket).HoldLease(bubble.Context(), "l1")
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				outside(d.stop)
				<-time.After(away) // of the bubble
				outside(func() { f.start(t, socket) })
				back := time.Now()
				<-l.Done()
				if took := time.Since(back); holds.Load() != 2 || took > 2*time.Second {
					t.Errorf("held %d times, the last %s after the daemon was back, %v", holds.Load(), took, l.Err())
				}
			})
		})
	}
}

// TestLeaseOfStoppingDaemon looks at what goes over the wire: the answer breaks off, whether the daemon's manager or its
// server stops first, and whoever asks meanwhile is to try again.
func TestLeaseOfStoppingDaemon(t *testing.T) {
	for _, first := range []string{"manager", "server"} {
		t.Run(first, func(t *testing.T) {
			f := newFake()
			closing, closeManager := context.WithCancel(t.Context())
			defer closeManager()
			held := make(chan struct{}, 1)
			f.hold = func(ctx context.Context, _ string, taken func()) error {
				if closing.Err() == nil {
					taken()
					held <- struct{}{}
				}
				select {
				case <-ctx.Done():
				case <-closing.Done():
				}
				return fmt.Errorf("the daemon is stopping: %w", errdefs.ErrUnavailable)
			}
			d, _ := serve(t, f)
			const request = "GET /v1/leases/l1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
			answer := make(chan string, 1)
			go func() { answer <- raw(t, d.socket, request) }()
			<-held
			if first == "server" {
				d.stop()
			} else {
				closeManager()
				if got := raw(t, d.socket, request); !strings.Contains(got, " 503 ") || !strings.Contains(got, `"retryable":true`) {
					t.Errorf("meanwhile: %q", got)
				}
			}
			if got := <-answer; !strings.Contains(got, `{"schema":1,"id":"l1"}`) || strings.Contains(got, "error") || strings.HasSuffix(got, "0\r\n\r\n") {
				t.Errorf("got %q, want an answer that breaks off", got)
			}
		})
	}
}
