package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

const (
	beProxy = "CTRSNAP_TEST_BE_PROXY"
	patient = 20 * time.Second
)

// TestMain is also the proxy, where this program is started as one.
func TestMain(m *testing.M) {
	if os.Getenv(beProxy) == "" {
		goleak.VerifyTestMain(m)
		return
	}
	l, err := net.FileListener(os.NewFile(3, "control"))
	if err == nil {
		err = Serve(l.(*net.UnixListener))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func options(t *testing.T, dir string) Options {
	t.Helper()
	t.Setenv(beProxy, "1")
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Options{Dir: dir, Program: program}
}

func mustOpen(t *testing.T, opts Options) *Publisher {
	t.Helper()
	p, err := Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ids, _ := p.Published(context.Background())
		for _, id := range ids {
			_ = p.Unpublish(context.Background(), id)
		}
		p.Close()
	})
	return p
}

// echo is a clone: it says its name, and then what it is told.
func echo(t *testing.T, name string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.WriteString(c, name)
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func mustPublish(t *testing.T, p *Publisher, id string, to netip.AddrPort, at ...string) []netip.AddrPort {
	t.Helper()
	got, err := p.Publish(t.Context(), id, "", mustParse(t, at...), to)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func mustParse(t *testing.T, list ...string) (all []Address) {
	t.Helper()
	for _, s := range list {
		a, err := Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, a)
	}
	return all
}

// dial connects and reads the name of the clone.
func dial(at netip.AddrPort, name string) (net.Conn, error) {
	if at.Addr() == netip.IPv4Unspecified() {
		at = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), at.Port())
	} else if at.Addr().IsUnspecified() {
		at = netip.AddrPortFrom(netip.IPv6Loopback(), at.Port())
	}
	c, err := net.DialTimeout("tcp", at.String(), patient)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(patient))
	got := make([]byte, len(name))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != name {
		return nil, errors.Join(fmt.Errorf("%s answers at %s, not %s: %w", got, at, name, err), c.Close())
	}
	return c, nil
}

func mustDial(t *testing.T, at netip.AddrPort, name string) net.Conn {
	t.Helper()
	c, err := dial(at, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// mustEcho says something by a connection and is told the same.
func mustEcho(t *testing.T, c net.Conn, text string) {
	t.Helper()
	got := make([]byte, len(text))
	_, err := io.WriteString(c, text)
	if err == nil {
		_, err = io.ReadFull(c, got)
	}
	if err != nil || string(got) != text {
		t.Errorf("said %s, heard %s, %v", text, got, err)
	}
}

func mustBeFree(t *testing.T, at netip.AddrPort) {
	t.Helper()
	l, err := net.Listen("tcp", at.String())
	if err != nil {
		t.Error(err)
		return
	}
	l.Close()
}

func TestPublishedAddresses(t *testing.T) {
	p := mustOpen(t, options(t, t.TempDir()))
	to := echo(t, "one")
	got := mustPublish(t, p, "c1", to, "0", "127.0.0.1:0", "[::1]:")
	want := []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified(), netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}
	if !p.ipv6 {
		t.Fatal("this host has no IPv6")
	}
	for i, a := range got {
		if a.Addr() != want[i] || a.Port() == 0 {
			t.Errorf("%d is published at %s", i, a)
		}
		c := mustDial(t, a, "one")
		mustEcho(t, c, "hello")
		// All that was said arrives when one side has no more to say.
		_, _ = io.WriteString(c, "bye")
		_ = c.(*net.TCPConn).CloseWrite()
		if rest, err := io.ReadAll(c); string(rest) != "bye" || err != nil {
			t.Errorf("heard %s at the end, %v", rest, err)
		}
	}
	open := mustDial(t, got[0], "one")
	if err := p.Unpublish(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	if _, err := open.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection goes on: %v", err)
	}
	for _, a := range got {
		mustBeFree(t, a)
	}
	if err := p.Unpublish(t.Context(), "c1"); err != nil {
		t.Errorf("once more: %v", err)
	}
}

func TestConnectionsOutliveTheDaemon(t *testing.T) {
	opts := options(t, t.TempDir())
	p := mustOpen(t, opts)
	at := mustPublish(t, p, "c1", echo(t, "one"), "127.0.0.1:0")[0]
	open := mustDial(t, at, "one")
	p.Close()
	mustEcho(t, open, "nobody watches")
	mustDial(t, at, "one")
	p = mustOpen(t, opts)
	mustEcho(t, open, "somebody watches again")
	if ids, _ := p.Published(t.Context()); !slices.Equal(ids, []string{"c1"}) {
		t.Errorf("published are %v", ids)
	}
	if _, err := p.Publish(t.Context(), "c2", "", []Address{{at.Addr(), at.Port()}}, at); !errdefs.IsAlreadyExists(err) || !strings.Contains(err.Error(), "c1") {
		t.Errorf("got %v, want it to name c1", err)
	}
}

func TestTakenPort(t *testing.T) {
	p := mustOpen(t, options(t, t.TempDir()))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	for _, at := range []string{strconv.Itoa(port), "127.0.0.1:" + strconv.Itoa(port)} {
		_, err := p.Publish(t.Context(), "c1", "", mustParse(t, "0", at), echo(t, "one"))
		if want := fmt.Sprintf("(pid %d)", os.Getpid()); !errdefs.IsAlreadyExists(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("publish at %s: %v, want it to say %s", at, err, want)
		}
	}
	if _, err := p.Publish(t.Context(), "c1", "", mustParse(t, "192.0.2.1:0"), netip.AddrPort{}); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "192.0.2.1") {
		t.Errorf("an address of others: %v", err)
	}
	if files, _ := filepath.Glob(filepath.Join(p.opts.Dir, "*.json")); len(files) > 0 {
		t.Errorf("%v are left", files)
	}
}

func TestSuccessorTakesThePort(t *testing.T) {
	p := mustOpen(t, options(t, t.TempDir()))
	at := mustPublish(t, p, "c1", echo(t, "one"), "127.0.0.1:0")[0]
	fixed := []Address{{at.Addr(), at.Port()}}
	// One that cannot have all it wants leaves the port where it was.
	taken := mustPublish(t, p, "c0", echo(t, "zero"), "0")[0]
	if _, err := p.Publish(t.Context(), "c2", "c1", append(fixed, Address{Port: taken.Port()}), echo(t, "two")); !errdefs.IsAlreadyExists(err) {
		t.Errorf("got %v", err)
	}
	mustDial(t, at, "one")
	if _, err := p.Publish(t.Context(), "c2", "c1", fixed, echo(t, "two")); err != nil {
		t.Fatal(err)
	}
	mustDial(t, at, "two")
}

func TestKilledProxyIsReplaced(t *testing.T) {
	p := mustOpen(t, options(t, t.TempDir()))
	one := mustPublish(t, p, "c1", echo(t, "one"), "127.0.0.1:0")[0]
	killChildren(t)
	await(t, func() error {
		c, err := dial(one, "one")
		if err == nil {
			c.Close()
		}
		return err
	})
	// And where it is noticed by who publishes next.
	killChildren(t)
	two := mustPublish(t, p, "c2", echo(t, "two"), "127.0.0.1:0")[0]
	mustDial(t, two, "two")
	await(t, func() error {
		c, err := dial(one, "one")
		if err == nil {
			c.Close()
		}
		return err
	})
}

// killChildren kills the processes that this one has started.
func killChildren(t *testing.T) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range stats {
		b, err := os.ReadFile(f)
		_, rest, _ := strings.Cut(string(b), ") ")
		fields := strings.Fields(rest)
		if err != nil || len(fields) < 2 || fields[1] != strconv.Itoa(os.Getpid()) {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		if child, err := os.FindProcess(pid); err == nil {
			_ = child.Kill()
		}
	}
}

func await(t *testing.T, cond func() error) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patient); ; <-tick.C {
		err := cond()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// TestEachStep fails, and is abandoned, before each step: what there is then is
// what the next process says that there is.
func TestEachStep(t *testing.T) {
	for _, step := range []string{"record", "recorded", "published", "remove", "removed"} {
		t.Run(step, func(t *testing.T) {
			opts := options(t, t.TempDir())
			broken := errors.New(step + " fails")
			failing := ""
			opts.Failpoint = func(s string) error {
				if s == failing {
					return broken
				}
				return nil
			}
			p := mustOpen(t, opts)
			to := echo(t, "one")
			free := mustPublish(t, p, "c0", to, "127.0.0.1:0")[0]
			if err := p.Unpublish(t.Context(), "c0"); err != nil {
				t.Fatal(err)
			}
			at := []Address{{free.Addr(), free.Port()}}
			failing = step
			removing := strings.HasPrefix(step, "remove")
			_, err := p.Publish(t.Context(), "c1", "", at, to)
			if removing {
				err = p.Unpublish(t.Context(), "c1")
			}
			if !errors.Is(err, broken) {
				t.Errorf("got %v", err)
			}
			failing = ""
			if err := p.Unpublish(t.Context(), "c1"); err != nil {
				t.Fatal(err)
			}
			mustBeFree(t, free)
			p.Close()

			// Killed at that step: the next one sees what is left.
			opts.Failpoint = func(s string) error {
				if s == step {
					panic(broken)
				}
				return nil
			}
			killed, err := Open(t.Context(), opts)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { killed.Close() })
			func() {
				defer func() { _ = recover() }()
				if _, err := killed.Publish(t.Context(), "c1", "", at, to); err == nil || removing {
					_ = killed.Unpublish(t.Context(), "c1")
				}
			}()
			killed.disconnect()                    // as the end of a process does
			half := filepath.Join(opts.Dir, ".c2") // and one that it was writing
			if err := os.WriteFile(half, []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}

			opts.Failpoint = nil
			next := mustOpen(t, opts)
			if ids, _ := next.Published(t.Context()); len(ids) > 0 {
				mustDial(t, free, "one")
			}
			if _, err := os.Lstat(half); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("half a record is left: %v", err)
			}
			if err := next.Unpublish(t.Context(), "c1"); err != nil {
				t.Fatal(err)
			}
			mustBeFree(t, free)
			if err := next.Teardown(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestParse(t *testing.T) {
	for s, want := range map[string]string{
		"5433": "5433", ":5433": "5433", "0": "0", "127.0.0.1:5433": "127.0.0.1:5433", "127.0.0.1": "127.0.0.1:0", "127.0.0.1:": "127.0.0.1:0",
		"[::1]:5433": "[::1]:5433", "::1": "[::1]:0", "[::]:5433": "5433", "0.0.0.0:5433": "0.0.0.0:5433",
	} {
		if a, err := Parse(s); err != nil || a.String() != want {
			t.Errorf("%s is %s, %v, want %s", s, a, err, want)
		}
	}
	for _, s := range []string{"65536", "-1", "x", "127.0.0.1:x", "127.0.0.300:1", "localhost:5433", "5433:5432", "[fe80::1%eth0]:1", "224.0.0.1:5", "[::ffff:1.2.3.4]:5"} {
		if a, err := Parse(s); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s is %s, %v", s, a, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("127.0.0.1:5433")
	f.Add("[::1]:0")
	f.Fuzz(func(t *testing.T, s string) {
		a, err := Parse(s)
		if err != nil {
			return
		}
		if again, err := Parse(a.String()); err != nil || again != a {
			t.Errorf("%q is %s, and that is %s, %v", s, a, again, err)
		}
	})
}

// TestTooManyConnections: what is more than a clone may have, or all together, is refused at once, until others have
// ended. Nobody waits without a word.
func TestTooManyConnections(t *testing.T) {
	for name, tt := range map[string]struct {
		files uint64
		fit   int
	}{
		"of a clone": {files: 6 * filesPerConn, fit: 3},
		"of all":     {files: 2 * filesPerConn, fit: 1},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(nil, tt.files)
			r := newRelay("c1", echo(t, "one"), p.slots, p.each)
			defer r.close()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			r.serve(l)
			at := netip.MustParseAddrPort(l.Addr().String())
			var open []net.Conn
			for range tt.fit {
				open = append(open, mustDial(t, at, "one"))
			}
			if c, err := net.Dial("tcp", at.String()); err == nil {
				_ = c.SetReadDeadline(time.Now().Add(patient))
				if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
					t.Errorf("one too many: %v", err)
				}
				c.Close()
			}
			for _, c := range open {
				mustEcho(t, c, "still")
			}
			open[0].Close()
			await(t, func() error {
				c, err := dial(at, "one")
				if err == nil {
					c.Close()
				}
				return err
			})
		})
	}
	p := newProxy(nil, 1<<20)
	if p.each != maxConns || cap(p.slots) <= 2*p.each {
		t.Errorf("%d of each, %d of all", p.each, cap(p.slots))
	}
	var others []*relay
	for range 2 { // one clone leaves room to others
		r := newRelay("c", netip.AddrPort{}, p.slots, p.each)
		others = append(others, r)
		for take(r.slots) {
			if !take(r.all) {
				t.Errorf("clone %d has %d connections", len(others), len(r.slots))
				break
			}
		}
	}
}
