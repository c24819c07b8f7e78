package server

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestBounded: one connection too many is closed, and taken when another has ended.
func TestBounded(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := boundRemote(tcp, 1)
	defer l.Close()
	accepted := make(chan net.Conn)
	go func() {
		defer close(accepted)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", tcp.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := dial()
	defer first.Close()
	served := <-accepted
	second := dial()
	if _, err := second.Read(make([]byte, 1)); err == nil {
		t.Error("there are two")
	}
	second.Close()
	served.Close()
	served.Close() // gives back one place
	if _, err := first.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the first: %v", err)
	}
	third := dial()
	defer third.Close()
	(<-accepted).Close()
	l.Close()
	<-accepted
}

// TestBoundedByUser: a user who has all connections that he may have is told so; others and root are let in.
func TestBoundedByUser(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	unix, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := boundLocal(unix, nil)
	if err != nil {
		t.Fatal(err)
	}
	b.perUser, b.all = 2, 3
	var uid atomic.Uint32 // who is said to be at the other end
	b.userOf = func(net.Conn) (uint32, bool) { return uid.Load(), uid.Load() != 0 }
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done() // follows
	})}
	go func() { _ = s.Serve(b) }()
	defer s.Close()
	var held []net.Conn
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	// follow begins to follow as a user, and returns what is answered at once.
	follow := func(as uint32) string {
		t.Helper()
		uid.Store(as)
		before := b.count()
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil && !errors.Is(err, syscall.EPIPE) {
			t.Fatal(err)
		}
		answer := make(chan string, 1)
		go func() {
			r, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				return
			}
			defer r.Body.Close()
			body, _ := io.ReadAll(r.Body)
			answer <- fmt.Sprintf("%d %s", r.StatusCode, body)
		}()
		for tick := time.NewTicker(time.Millisecond); ; <-tick.C {
			select {
			case a := <-answer:
				return a
			default:
				if b.count() > before {
					return ""
				}
			}
		}
	}
	for i, as := range []uint32{7, 7, 8} {
		if got := follow(as); got != "" {
			t.Errorf("connection %d is answered %s", i, got)
		}
	}
	for _, as := range []uint32{7, 9} { // too many of his, too many of all
		if got := follow(as); !strings.Contains(got, "429 ") || !strings.Contains(got, `"capacity"`) {
			t.Errorf("one too many is answered %q", got)
		}
	}
	uid.Store(0)
	root, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if b.count() != 3 {
		t.Errorf("root is counted: %d", b.count())
	}
	held[0].Close()
	for tick := time.NewTicker(time.Millisecond); b.count() == 3; <-tick.C {
	}
	if got := follow(7); got != "" {
		t.Errorf("in the place of one that ended: %s", got)
	}
}

func (b *bounded) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.total
}
