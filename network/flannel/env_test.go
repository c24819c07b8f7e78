package flannel

import (
	"bytes"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

const whole = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.7.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"

func TestParseEnv(t *testing.T) {
	got, err := ParseEnv(whole + "FLANNEL_IPV6_NETWORK=fd00::/48\nFLANNEL_IPV6_SUBNET=fd00:0:0:7::1/64\nOTHER=x\n\nno assignment\n")
	want := Env{
		Network: netip.MustParsePrefix("10.244.0.0/16"), Subnet: netip.MustParsePrefix("10.244.7.0/24"),
		IPv6Network: netip.MustParsePrefix("fd00::/48"), IPv6Subnet: netip.MustParsePrefix("fd00:0:0:7::/64"),
		MTU: 1450, IPMasq: true,
	}
	same := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
	if d := cmp.Diff(want, got, same); d != "" || err != nil {
		t.Errorf("%v\n%s", err, d)
	}
	if s := got.String(); s != "10.244.7.0/24 fd00:0:0:7::/64" {
		t.Errorf("subnets %s", s)
	}
}

func TestBadEnv(t *testing.T) {
	for text, want := range map[string]string{
		"": "FLANNEL_NETWORK or FLANNEL_IPV6_NETWORK is missing",
		strings.Replace(whole, "FLANNEL_MTU=1450\n", "", 1):        "FLANNEL_MTU is missing",
		strings.Replace(whole, "FLANNEL_IPMASQ=true\n", "", 1):     "FLANNEL_IPMASQ is missing",
		strings.Replace(whole, "1450", "many", 1):                  "FLANNEL_MTU",
		strings.Replace(whole, "10.244.7.1/24", "10.244.7.1", 1):   "FLANNEL_SUBNET",
		strings.Replace(whole, "10.244.0.0/16", "10.244.0.0/x", 1): "FLANNEL_NETWORK",
	} {
		path := filepath.Join(t.TempDir(), "subnet.env")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadEnv(path); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("got %v, want it to say %q", err, want)
		}
	}
	if _, err := ReadEnv(filepath.Join(t.TempDir(), "nonesuch")); !errdefs.IsUnavailable(err) {
		t.Errorf("no file: %v", err)
	}
}

func FuzzParseEnv(f *testing.F) {
	f.Add(whole)
	f.Fuzz(func(t *testing.T, text string) {
		env, err := ParseEnv(text)
		if err == nil && !env.Subnet.IsValid() && !env.IPv6Subnet.IsValid() {
			t.Error("a lease without a subnet")
		}
	})
}

func TestLeaseChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "subnet.env")
	var log bytes.Buffer
	l := &Lease{Path: path, Log: slog.New(slog.NewTextHandler(&log, nil))}
	if _, err := l.Current(); !errdefs.IsUnavailable(err) {
		t.Errorf("no file: %v", err)
	}
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	subnet := func(want string) {
		t.Helper()
		env, err := l.Current()
		if err != nil || env.String() != want {
			t.Errorf("subnet %s, %v: want %s", env, err, want)
		}
	}
	put(whole)
	subnet("10.244.7.0/24")
	put(strings.Replace(whole, "1450", "1400", 1)) // a restart of flanneld
	subnet("10.244.7.0/24")
	if log.Len() > 0 {
		t.Errorf("log: %s", &log)
	}
	put(strings.Replace(whole, "10.244.7.1", "10.244.9.1", 1))
	subnet("10.244.9.0/24")
	subnet("10.244.9.0/24")
	if n := strings.Count(log.String(), "before=10.244.7.0/24 now=10.244.9.0/24"); n != 1 {
		t.Errorf("log: %s", &log)
	}
}
