package testsuite

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/ctrsnap/ctrsnap/network"
)

// Waits for answers: those that are to come may take long on a loaded machine,
// those that are not to come are not waited for.
const (
	patient   = 20 * time.Second
	impatient = 250 * time.Millisecond
)

// protocols are how namespaces are tried.
var protocols = []string{"tcp", "udp"}

// Echo answers on a port of all addresses of the calling thread's namespace
// until the end of the test; 0 takes a free one.
func Echo(t testing.TB, port int) int {
	t.Helper()
	l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
	if err != nil {
		t.Fatal(err)
	}
	port = l.Addr().(*net.TCPAddr).Port
	p, err := net.ListenPacket("udp", ":"+strconv.Itoa(port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(l.Close(), p.Close()) })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("tcp"))
			_ = c.Close()
		}
	}()
	go echo(p)
	return port
}

func echo(p net.PacketConn) {
	buf := make([]byte, 2048)
	for {
		n, from, err := p.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_, _ = p.WriteTo(buf[:n], from)
		}
	}
}

// EchoIn is Echo in a namespace.
func EchoIn(t testing.TB, ns network.Namespace) (port int) {
	t.Helper()
	Inside(t, ns, func() error { port = Echo(t, 0); return nil })
	return port
}

// Ask talks to an Echo from the namespace of the calling thread.
func Ask(protocol, addr string, wait time.Duration) error {
	c, err := net.DialTimeout(protocol, addr, wait)
	if err != nil {
		return err
	}
	defer c.Close()
	deadline := time.Now().Add(wait)
	for {
		// A datagram may get lost: ask again.
		if protocol == "udp" {
			_, _ = c.Write([]byte("udp"))
		}
		_ = c.SetReadDeadline(minTime(deadline, time.Now().Add(time.Second)))
		_, err := c.Read(make([]byte, 8))
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) || time.Now().After(deadline) {
			return err
		}
	}
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// MustReach fails unless all addresses answer by all protocols.
func MustReach(t testing.TB, who string, addrs []netip.Addr, port int) {
	t.Helper()
	for _, a := range addrs {
		for _, proto := range protocols {
			if err := Ask(proto, netip.AddrPortFrom(a, uint16(port)).String(), patient); err != nil {
				t.Errorf("%s does not reach %s %s: %v", who, proto, a, err)
			}
		}
	}
}

// MustNotReach fails if any address answers by any protocol.
func MustNotReach(t testing.TB, who string, addrs []netip.Addr, port int) {
	t.Helper()
	for _, a := range addrs {
		for _, proto := range protocols {
			if Ask(proto, netip.AddrPortFrom(a, uint16(port)).String(), impatient) == nil {
				t.Errorf("%s reaches %s %s", who, proto, a)
			}
		}
	}
}
