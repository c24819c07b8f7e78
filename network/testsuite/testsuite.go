package testsuite

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"github.com/vishvananda/netlink"

	"github.com/ctrsnap/ctrsnap/network"
)

// Network is what all implementations have.
type Network interface {
	network.Provider
	Reconcile(ctx context.Context, keep []string) error
	Teardown(ctx context.Context) error
}

// Config is what all implementations are configured with.
type Config struct {
	StateDir, Bridge string
	Subnet           netip.Prefix
	Log              *slog.Logger
	// Failpoint, if set, is called before each step of Add and Remove.
	Failpoint func(step string) error
}

// Open opens an implementation. A test that wants it closed before its end, as
// a restart would, calls the function that closing a daemon would call.
type Open func(ctx context.Context, cfg Config) (n Network, closeIt func() error, _ error)

// Run runs the suite. The package's tests must run under [Main], and a test
// of the name TestCrashChild must call [CrashChild].
func Run(t *testing.T, open Open) {
	runAll(t, open, []test{
		{"HostReachesCloneAndNobodyElse", testReach},
		{"CloneWithCapabilitiesReachesNoOther", testHostileClone},
		{"NamespaceIsNamedByItsID", testNames},
	})
	RunAny(t, open)
	runAll(t, open, []test{
		{"RestartKeepsBridgeAndSubnet", testRestart},
		{"SubnetIsChangedWhenUnused", testSubnetChanged},
		{"ConfiguredSubnetOverlaps", testOverlap},
		{"AutomaticSubnetPassesOverTakenOnes", testTakenSubnets},
		{"DefaultRoutesTakeNothing", testDefaultRoutes},
		{"TwoDaemons", testTwoDaemons},
		{"DaemonsThatStartTogether", testStartTogether},
		{"ForeignLinkIsLeftAlone", testForeignLink},
		{"HalfMadeBridgeIsTakenUp", testHalfMadeBridge},
		{"DeletedBridgeIsMadeAnew", testDeletedBridge},
		{"BadOptions", testBadOptions},
	})
}

// Setup returns a configuration with a state of its own. The end of the test
// looks for leaks.
func Setup(t testing.TB) Config {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	cfg := Config{StateDir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
	t.Cleanup(func() { CheckLeaks(t, cfg) })
	return cfg
}

// MustOpen opens a network that is torn down, its namespaces first, at the end.
func MustOpen(t testing.TB, open Open, cfg Config) Network {
	t.Helper()
	n, closeIt, err := open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		RemoveAll(t, n)
		if err := closeIt(); err != nil {
			t.Error(err)
		}
		Teardown(t, n)
	})
	return n
}

// Teardown tears a network down that has no namespaces. It waits for links of
// half made ones: the kernel takes them down with the namespace, a little later.
func Teardown(t testing.TB, n Network) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(5 * time.Second); ; <-tick.C {
		err := n.Teardown(context.WithoutCancel(t.Context()))
		if err == nil {
			return
		}
		if !errdefs.IsFailedPrecondition(err) || time.Now().After(deadline) {
			t.Error(err)
			return
		}
	}
}

// RemoveAll removes all namespaces.
func RemoveAll(t testing.TB, n Network) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	ids, err := n.Namespaces(ctx)
	if err != nil {
		t.Error(err)
	}
	for _, id := range ids {
		if err := n.Remove(ctx, id); err != nil {
			t.Error(err)
		}
	}
}

// CheckLeaks fails if a state directory has namespaces, mounts, links,
// neighbours or rules left. It waits as [Teardown] does.
func CheckLeaks(t testing.TB, cfg Config) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(5 * time.Second); ; <-tick.C {
		left := leaks(t, cfg)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("left: %s", strings.Join(left, ", "))
			return
		}
	}
}

func leaks(t testing.TB, cfg Config) (left []string) {
	t.Helper()
	links, err := whole(netlink.LinkList)
	if err != nil {
		return []string{err.Error()}
	}
	for _, l := range links {
		a := l.Attrs().Alias
		if a == owner(cfg) {
			left = append(left, "bridge "+l.Attrs().Name)
		}
		if l.Type() == "veth" {
			left = append(left, "link "+l.Attrs().Name+" "+a)
		}
	}
	for _, name := range Tables(t) {
		left = append(left, "table "+name)
	}
	neighbours, err := whole(func() ([]netlink.Neigh, error) { return netlink.NeighList(0, netlink.FAMILY_ALL) })
	if err != nil {
		return []string{err.Error()}
	}
	for _, n := range neighbours {
		if n.State == netlink.NUD_PERMANENT {
			left = append(left, "neighbour "+n.IP.String())
		}
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(cfg.StateDir))
	if err != nil {
		return []string{err.Error()}
	}
	for _, m := range mounts {
		left = append(left, "mount "+m.Mountpoint)
	}
	files, _ := filepath.Glob(filepath.Join(cfg.StateDir, "*", "*"))
	return append(left, files...)
}

// owner is the alias of a bridge.
func owner(cfg Config) string { return "ctrsnap " + cfg.StateDir }

// subnets returns the subnets by bridge.
func subnets(t testing.TB, cfg Config) map[string]netip.Prefix {
	t.Helper()
	links, err := whole(netlink.LinkList)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]netip.Prefix{}
	for _, l := range links {
		if l.Attrs().Alias != owner(cfg) {
			continue
		}
		addrs, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(l, netlink.FAMILY_V4) })
		if err != nil || len(addrs) != 1 {
			t.Fatalf("bridge %s has addresses %v, %v", l.Attrs().Name, addrs, err)
		}
		found[l.Attrs().Name] = netip.MustParsePrefix(addrs[0].IPNet.String()).Masked()
	}
	return found
}

// lan returns the only bridge and its subnet.
func lan(t testing.TB, cfg Config) (name string, _ netip.Prefix) {
	t.Helper()
	all := subnets(t, cfg)
	if len(all) != 1 {
		t.Fatalf("bridges %v", all)
	}
	for name, subnet := range all {
		return name, subnet
	}
	panic("unreachable")
}

// whole repeats a listing that changes made incomplete.
func whole[T any](list func() (T, error)) (v T, err error) {
	for range 100 {
		if v, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return v, err
}
