package dns

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOpen has clones ask the host's address on their own bridge, also on one that comes later; where somebody else
// listens they do without until that one is gone.
func TestOpen(t *testing.T) {
	other, err := net.ListenPacket("udp", "127.77.1.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	port := netip.MustParseAddrPort(other.LocalAddr().String()).Port()
	gateways := []netip.Prefix{netip.MustParsePrefix("127.77.0.1/24"), netip.MustParsePrefix("127.77.1.1/24")}
	dir := filepath.Join(t.TempDir(), "resolv")
	n := Open(t.Context(), &fake{}, func() []netip.Prefix { return gateways }, dir, Options{Port: port, Log: slog.New(slog.DiscardHandler)})
	defer n.Close()
	want := func(addr, gateway string) {
		t.Helper()
		path := n.ResolvConf(t.Context(), netip.MustParseAddr(addr))
		if gateway == "" {
			if path != "" {
				t.Errorf("%s asks by %s", addr, path)
			}
			return
		}
		b, err := os.ReadFile(path)
		if got := string(b); err != nil || got != "search ctrsnap.internal\nnameserver "+gateway+"\n" {
			t.Errorf("%s asks by %q, %v", addr, got, err)
		}
	}
	want("127.77.0.9", "127.77.0.1")
	want("127.77.1.9", "")
	want("127.77.2.9", "")
	err = n.Verify(t.Context())
	var hinted interface{ Hint() string }
	if !errors.Is(err, unix.EADDRINUSE) || !errors.As(err, &hinted) || !strings.Contains(hinted.Hint(), "network.dns") {
		t.Errorf("verify while somebody else listens: %v", err)
	}
	other.Close()
	if err := n.Verify(t.Context()); err != nil {
		t.Errorf("verify after that: %v", err)
	}
	want("127.77.1.9", "127.77.1.1")
	gateways = append(gateways, netip.MustParsePrefix("127.77.2.1/24"))
	want("127.77.2.9", "127.77.2.1")
	if got := n.String(); got != "ctrsnap.internal at 127.77.0.1, 127.77.1.1, 127.77.2.1" {
		t.Errorf("it says %q", got)
	}
	var none *Names
	if got := none.ResolvConf(t.Context(), netip.MustParseAddr("127.77.0.9")); got != "" || none.Close() != nil {
		t.Errorf("without names: %q", got)
	}
}
