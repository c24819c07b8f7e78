package http1

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// serve answers requests with h and returns a way to it.
func serve(t *testing.T, h http.HandlerFunc) func(*Request) (*Response, error) {
	t.Helper()
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 20 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() { srv.Close(); <-done })
	return func(req *Request) (*Response, error) {
		conn, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		t.Cleanup(cancel)
		return Do(ctx, conn, req)
	}
}

func readAll(t *testing.T, resp *Response, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRequest(t *testing.T) {
	do := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = io.WriteString(w, strings.Join([]string{r.Method, r.URL.Path, r.URL.Query().Get("q"), r.Header.Get("X-A"), r.Host, string(b)}, "|"))
	})
	resp, err := do(&Request{Method: "POST", Path: "/a%20b?q=1%262", Header: map[string]string{"X-A": "v"}, Body: []byte("hello")})
	if got := readAll(t, resp, err); got != "POST|/a b|1&2|v|ctrsnap|hello" {
		t.Error(got)
	}
	resp, err = do(&Request{Method: "POST", Path: "/"})
	if got := readAll(t, resp, err); got != "POST|/|||ctrsnap|" {
		t.Error(got)
	}
}

// TestStreamBothWays has each piece that is sent come back before the next is.
func TestStreamBothWays(t *testing.T) {
	do := serve(t, func(w http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(w)
		_ = c.EnableFullDuplex()
		for buf := make([]byte, 100); ; {
			n, err := r.Body.Read(buf)
			_, _ = w.Write(buf[:n])
			_ = c.Flush()
			if err != nil {
				return
			}
		}
	})
	r, w := io.Pipe()
	resp, err := do(&Request{Method: "POST", Path: "/", Stream: r, Sent: func() { go func() { _, _ = io.WriteString(w, "one") }() }})
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 3)
	for _, next := range []string{"two", "end"} {
		if _, err := io.ReadFull(resp.Body, buf); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(w, next)
	}
	_ = w.Close()
	if got := readAll(t, resp, nil); got != "end" {
		t.Errorf("got %q", got)
	}
}

// TestStreamRefused has a daemon that answers without reading: the answer arrives,
// and who makes the body is let go.
func TestStreamRefused(t *testing.T) {
	do := serve(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) })
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(w, zeros{})
		ended <- err
	}()
	resp, err := do(&Request{Method: "POST", Path: "/", Stream: r})
	if got := readAll(t, resp, err); resp.StatusCode != http.StatusForbidden || got != "no\n" {
		t.Errorf("%s: %q", resp.Status, got)
	}
	if err := <-ended; !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestStreamBroken has a body that cannot be read to its end: the daemon must not
// take what came for all.
func TestStreamBroken(t *testing.T) {
	got := make(chan error, 1)
	do := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		got <- err
	})
	r, w := io.Pipe()
	go func() {
		_, _ = io.WriteString(w, "half")
		w.CloseWithError(errors.New("disk"))
	}()
	if resp, err := do(&Request{Method: "POST", Path: "/", Stream: r}); err == nil {
		resp.Body.Close()
		t.Error("an answer")
	}
	if err := <-got; err == nil {
		t.Error("the daemon saw a whole body")
	}
}

func TestInterim(t *testing.T) {
	do := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		for _, place := range []string{"2", "1"} {
			w.Header().Set("Place", place)
			w.WriteHeader(http.StatusProcessing)
		}
		_, _ = io.WriteString(w, "done")
	})
	var places []string
	resp, err := do(&Request{Method: "GET", Path: "/", Interim: func(h Header) { places = append(places, h.Get("place")) }})
	if got := readAll(t, resp, err); got != "done" || strings.Join(places, " ") != "2 1" {
		t.Errorf("%q, places %q", got, places)
	}
}

func TestSwitchingProtocols(t *testing.T) {
	do := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhi")
		_, _ = io.CopyN(conn, rw, 4)
	})
	resp, err := do(&Request{Method: "POST", Path: "/", Header: map[string]string{"Connection": "Upgrade", "Upgrade": "echo"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(resp.Body, "back"); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, resp, nil); resp.StatusCode != SwitchingProtocols || got != "hiback" {
		t.Errorf("%s: %q", resp.Status, got)
	}
}

// TestContext ends a request that waits for its answer, and a body that waits.
func TestContext(t *testing.T) {
	l, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, head := range []string{"", "HTTP/1.1 200 OK\r\n\r\n"} {
		conn, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		daemon, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(daemon, head)
		ctx, cancel := context.WithCancel(context.Background())
		resp, err := Do(ctx, conn, &Request{Method: "GET", Path: "/", Sent: func() {
			if head == "" {
				cancel()
			}
		}})
		if err == nil {
			cancel()
			_, err = resp.Body.Read(make([]byte, 1))
			resp.Body.Close()
		}
		var n net.Error
		if !errors.As(err, &n) || !n.Timeout() {
			t.Errorf("after %q: %v", head, err)
		}
		cancel()
		daemon.Close()
	}
}
