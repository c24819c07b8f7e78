package attach

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/netns"
	"github.com/ctrsnap/ctrsnap/network/testsuite"
)

func TestMain(m *testing.M) { testsuite.Main(m) }

// world is a host with a bridge lan0, a neighbour 192.0.2.50 on it, and clones.
type world struct {
	*Attacher
	t   *testing.T
	dir string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	bin, err := filepath.Abs(cmp.Or(os.Getenv("CTRSNAP_TEST_BIN"), "../../bin"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	a, err := Open(Options{Dir: filepath.Join(dir, "attach"), BinDirs: []string{bin}})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{a, t, dir}
	before := w.links()
	testsuite.AddLink(t, "lan0", "192.0.2.1/24")
	peer := w.clone("peer")
	ip(t, "link", "add", "peer0", "type", "veth", "peer", "name", "eth0", "netns", peer)
	ip(t, "link", "set", "dev", "peer0", "master", "lan0", "up")
	w.inside("peer", func() error { return configure("eth0", "192.0.2.50/24") })
	t.Cleanup(func() {
		if left, err := a.all(); len(left) > 0 || err != nil {
			t.Errorf("left: %v, %v", left, err)
		}
		if err := a.Teardown(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
		ip(t, "link", "delete", "lan0")
		ip(t, "link", "delete", "peer0")
		// The kernel removes those that were in a namespace behind its end.
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for deadline := time.Now().Add(25 * time.Second); len(w.links()) != len(before); <-tick.C {
			if time.Now().After(deadline) {
				t.Errorf("links %v after %v", w.links(), before)
				break
			}
		}
	})
	return w
}

func (w *world) links() (names []string) {
	w.t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	return names
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func configure(name, cidr string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}
	return errors.Join(netlink.AddrAdd(link, addr), netlink.LinkSetUp(link))
}

// clone makes a namespace and returns its path.
func (w *world) clone(id string) string {
	w.t.Helper()
	path, err := netns.Make(w.dir, id)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = netns.Delete(path) })
	return path
}

func (w *world) path(id string) string { return filepath.Join(w.dir, id) }

func (w *world) inside(id string, fn func() error) {
	w.t.Helper()
	testsuite.Inside(w.t, network.Namespace{Path: w.path(id)}, fn)
}

func (w *world) attach(id string, r Request) Attachment {
	w.t.Helper()
	att, err := w.Attach(w.t.Context(), id, w.path(id), r)
	if err != nil {
		w.t.Fatal(err)
	}
	return att
}

// reaches has a clone talk to the neighbour, or not.
func (w *world) reaches(id, addr string) error {
	var l net.Listener
	w.inside("peer", func() (err error) { l, err = net.Listen("tcp4", addr+":0"); return err })
	if l == nil {
		return errors.New("the neighbour does not listen")
	}
	defer l.Close()
	var err error
	w.inside(id, func() error { err = testsuite.Dial(l.Addr().String()); return nil })
	return err
}

func TestAttachAndDetach(t *testing.T) {
	for name, r := range map[string]Request{
		"bridge":       {Type: network.Bridge, Master: "lan0", IP: "192.0.2.60/24"},
		"bridge ipam":  {Type: network.Bridge, Master: "lan0", IP: network.IPAM, IfName: "lan"},
		"macvlan":      {Type: network.Macvlan, Master: "nic0", IP: "192.0.2.60/24", MAC: "02:00:00:00:00:07"},
		"macvlan ipam": {Type: network.Macvlan, Master: "nic0", IP: network.IPAM},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			// A NIC is one end of a link whose other end is on the switch.
			ip(t, "link", "add", "nic0", "type", "veth", "peer", "name", "port0")
			t.Cleanup(func() { _ = exec.Command("ip", "link", "delete", "nic0").Run() })
			ip(t, "link", "set", "dev", "port0", "master", "lan0", "up")
			ip(t, "link", "set", "dev", "nic0", "up")
			ip(t, "address", "add", "192.0.2.2/24", "dev", "nic0")
			w.clone("ca")
			att := w.attach("ca", r)
			if r.MAC != "" && att.MAC != r.MAC {
				t.Errorf("hardware address %s", att.MAC)
			}
			if err := w.reaches("ca", "192.0.2.50"); err != nil {
				t.Errorf("%+v: %v", att, err)
			}
			if have, err := w.List("ca"); err != nil || len(have) != 1 || have[0] != att {
				t.Errorf("list: %v, %v", have, err)
			}
			second, err := Open(w.opts) // a restart
			if err != nil {
				t.Fatal(err)
			}
			if err := second.Detach(t.Context(), "ca", w.path("ca"), att.IfName); err != nil {
				t.Error(err)
			}
			if w.reaches("ca", "192.0.2.50") == nil {
				t.Error("the neighbour is reached still")
			}
			if err := w.Detach(t.Context(), "ca", w.path("ca"), att.IfName); !errdefs.IsNotFound(err) {
				t.Errorf("detach again: %v", err)
			}
			ip(t, "link", "delete", "nic0")
		})
	}
}

func TestPTP(t *testing.T) {
	w := newWorld(t)
	path := w.clone("ca")
	att := w.attach("ca", Request{Type: network.PTP, IP: "198.51.100.2/30"})
	ns := network.Namespace{Path: path}
	testsuite.Inside(t, ns, func() error {
		l, err := net.Listen("tcp4", "198.51.100.2:4000")
		if err == nil {
			t.Cleanup(func() { _ = l.Close() })
		}
		return err
	})
	if err := testsuite.Dial("198.51.100.2:4000"); err != nil {
		t.Errorf("host to clone: %v", err)
	}
	if err := w.Detach(t.Context(), "ca", path, att.IfName); err != nil {
		t.Error(err)
	}
}

func TestVLAN(t *testing.T) {
	w := newWorld(t)
	w.clone("ca")
	r := Request{Type: network.Bridge, Master: "lan0", IP: "192.0.2.60/24", VLAN: 7}
	if _, err := w.Attach(t.Context(), "ca", w.path("ca"), r); !errdefs.IsFailedPrecondition(err) || !strings.Contains(testsuite.Hint(err), "vlan_filtering") {
		t.Errorf("bridge that does not filter: %v", err)
	}
	// A kernel without VLAN links says so; with them it works.
	att, err := w.Attach(t.Context(), "ca", w.path("ca"), Request{Type: network.Macvlan, Master: "lan0", VLAN: 7})
	if err == nil {
		err = w.Detach(t.Context(), "ca", w.path("ca"), att.IfName)
	} else if errdefs.IsNotImplemented(err) && strings.Contains(err.Error(), "8021q") {
		err = nil
	}
	if err != nil {
		t.Error(err)
	}
}

func TestVLANOfBridge(t *testing.T) {
	w := newWorld(t)
	w.clone("ca")
	if out, err := exec.Command("ip", "link", "set", "dev", "lan0", "type", "bridge", "vlan_filtering", "1").CombinedOutput(); err != nil {
		t.Skipf("needs a kernel whose bridges filter VLANs: %s", out)
	}
	att := w.attach("ca", Request{Type: network.Bridge, Master: "lan0", IP: "192.0.2.60/24", VLAN: 7})
	if w.reaches("ca", "192.0.2.50") == nil {
		t.Error("another VLAN is reached")
	}
	if out, err := exec.Command("bridge", "vlan", "add", "dev", "peer0", "vid", "7", "pvid", "untagged").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := w.reaches("ca", "192.0.2.50"); err != nil {
		t.Errorf("its VLAN is not reached: %v", err)
	}
	if err := w.Detach(t.Context(), "ca", w.path("ca"), att.IfName); err != nil {
		t.Error(err)
	}
}

func TestBadRequests(t *testing.T) {
	w := newWorld(t)
	testsuite.AddLink(t, "down0", "198.51.100.1/24")
	ip(t, "link", "set", "dev", "down0", "down")
	testsuite.AddLink(t, "own0", "203.0.113.1/24")
	ip(t, "link", "set", "dev", "own0", "alias", "ctrsnap /run/ctrsnap")
	t.Cleanup(func() { ip(t, "link", "delete", "down0"); ip(t, "link", "delete", "own0") })
	path := w.clone("ca")
	other := w.clone("cb")
	w.attach("cb", Request{Type: network.Bridge, Master: "lan0", IP: "192.0.2.70/24"})
	good := Request{Type: network.Bridge, Master: "lan0", IP: "192.0.2.60/24"}
	for name, tt := range map[string]struct {
		change func(*Request)
		is     func(error) bool
		says   string
	}{
		"no type":            {func(r *Request) { r.Type = "" }, errdefs.IsInvalidArgument, "want bridge"},
		"no master":          {func(r *Request) { r.Master = "" }, errdefs.IsInvalidArgument, "needs a master"},
		"unknown master":     {func(r *Request) { r.Master = "nonesuch0" }, errdefs.IsNotFound, "nonesuch0"},
		"bad master":         {func(r *Request) { r.Master = "../x" }, errdefs.IsInvalidArgument, "../x"},
		"no bridge":          {func(r *Request) { r.Master = "peer0" }, errdefs.IsInvalidArgument, "no bridge"},
		"port as parent":     {func(r *Request) { r.Type, r.Master = network.Macvlan, "peer0" }, errdefs.IsFailedPrecondition, "peer0"},
		"loopback":           {func(r *Request) { r.Type, r.Master = network.Macvlan, "lo" }, errdefs.IsInvalidArgument, "loopback"},
		"down":               {func(r *Request) { r.Master = "down0" }, errdefs.IsFailedPrecondition, "down0"},
		"ours":               {func(r *Request) { r.Master = "own0" }, errdefs.IsPermissionDenied, "own0"},
		"address":            {func(r *Request) { r.IP = "192.0.2.60" }, errdefs.IsInvalidArgument, "192.0.2.60"},
		"network's":          {func(r *Request) { r.IP = "192.0.2.0/24" }, errdefs.IsInvalidArgument, "192.0.2.0/24"},
		"broadcast":          {func(r *Request) { r.IP = "192.0.2.255/24" }, errdefs.IsInvalidArgument, "192.0.2.255/24"},
		"the host's":         {func(r *Request) { r.IP = "192.0.2.1/24" }, errdefs.IsAlreadyExists, "192.0.2.1"},
		"the neighbour's":    {func(r *Request) { r.IP = "192.0.2.50/24" }, errdefs.IsAlreadyExists, "192.0.2.50 is taken on lan0"},
		"another clone's":    {func(r *Request) { r.IP = "192.0.2.70/24" }, errdefs.IsAlreadyExists, "192.0.2.70"},
		"dhcp with gateway":  {func(r *Request) { r.IP, r.Gateway = network.DHCP, "192.0.2.1" }, errdefs.IsInvalidArgument, "dhcp"},
		"ptp with dhcp":      {func(r *Request) { r.Type, r.Master, r.IP = network.PTP, "", network.DHCP }, errdefs.IsInvalidArgument, "range"},
		"gateway":            {func(r *Request) { r.Gateway = "198.51.100.1" }, errdefs.IsInvalidArgument, "198.51.100.1"},
		"gateway of no net":  {func(r *Request) { r.IP, r.Gateway = "", "192.0.2.1" }, errdefs.IsInvalidArgument, "192.0.2.1"},
		"hardware address":   {func(r *Request) { r.MAC = "01:00:00:00:00:00" }, errdefs.IsInvalidArgument, "01:00"},
		"VLAN":               {func(r *Request) { r.VLAN = 4095 }, errdefs.IsInvalidArgument, "4095"},
		"name of its own":    {func(r *Request) { r.IfName = "eth0" }, errdefs.IsAlreadyExists, "eth0"},
		"name too long":      {func(r *Request) { r.IfName = "abcdefghijklmnop" }, errdefs.IsInvalidArgument, "abcdefghijklmnop"},
		"ptp with master":    {func(r *Request) { r.Type = network.PTP }, errdefs.IsInvalidArgument, "no master"},
		"ptp without range":  {func(r *Request) { r.Type, r.Master, r.IP = network.PTP, "", network.IPAM }, errdefs.IsInvalidArgument, "range"},
		"ptp with VLAN":      {func(r *Request) { r.Type, r.Master, r.VLAN = network.PTP, "", 3 }, errdefs.IsInvalidArgument, "VLAN"},
		"ptp with a MAC":     {func(r *Request) { r.Type, r.Master, r.MAC = network.PTP, "", "02:00:00:00:00:01" }, errdefs.IsInvalidArgument, "hardware"},
		"ipam of no address": {func(r *Request) { r.Type, r.Master, r.IP = network.Macvlan, "bare0", network.IPAM }, errdefs.IsFailedPrecondition, "bare0"},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "ipam of no address" {
				testsuite.AddLink(t, "bare0", "198.51.100.9/24")
				ip(t, "address", "flush", "dev", "bare0")
				ip(t, "link", "set", "dev", "bare0", "up")
			}
			r := good
			tt.change(&r)
			if _, err := w.Attach(t.Context(), "ca", path, r); !tt.is(err) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%+v: %v", r, err)
			}
			if have, _ := w.List("ca"); len(have) > 0 {
				t.Errorf("left: %v", have)
			}
		})
	}
	if err := w.Forget(t.Context(), "cb"); err != nil {
		t.Error(err)
	}
	if err := netns.Delete(other); err != nil {
		t.Error(err)
	}
}

func TestGateway(t *testing.T) {
	w := newWorld(t)
	path := w.clone("ca")
	ip(t, "link", "add", "host0", "type", "veth", "peer", "name", "eth0", "netns", path)
	t.Cleanup(func() { ip(t, "link", "delete", "host0") })
	var own string
	w.inside("ca", func() error {
		if err := configure("eth0", "203.0.113.2/24"); err != nil {
			return err
		}
		err := netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP("203.0.113.1")})
		own = defaults()
		return err
	})
	r := Request{Type: network.Bridge, Master: "lan0", IP: "192.0.2.60/24", Gateway: "192.0.2.50"}
	att := w.attach("ca", r)
	w.inside("peer", func() error { return configure("lo", "198.51.100.50/32") })
	if err := w.reaches("ca", "198.51.100.50"); err != nil {
		t.Errorf("beyond the gateway: %v", err)
	}
	r.IP = "192.0.2.61/24"
	if _, err := w.Attach(t.Context(), "ca", path, r); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "192.0.2.50 by eth1") {
		t.Errorf("second gateway: %v", err)
	}
	if err := w.Detach(t.Context(), "ca", path, att.IfName); err != nil {
		t.Error(err)
	}
	w.inside("ca", func() error {
		if now := defaults(); now != own || own == "" {
			t.Errorf("default route %q after %q", now, own)
		}
		return nil
	})
}

// defaults lists the gateways of the calling thread's namespace.
func defaults() (s string) {
	routes, _ := netlink.RouteList(nil, netlink.FAMILY_V4)
	for _, r := range routes {
		if r.Gw != nil {
			s += r.Gw.String() + " "
		}
	}
	return s
}

// TestUndoAndCrash fails at each step, and leaves what a crash there would.
func TestUndoAndCrash(t *testing.T) {
	w := newWorld(t)
	w.clone("ca")
	r := Request{Type: network.Bridge, Master: "lan0", IP: "192.0.2.60/24"}
	before := len(w.links())
	for _, step := range []string{"recorded", "attached"} {
		boom := errors.New("boom")
		w.opts.Failpoint = func(s string) error {
			if s == step {
				return boom
			}
			return nil
		}
		if _, err := w.Attach(t.Context(), "ca", w.path("ca"), r); !errors.Is(err, boom) {
			t.Errorf("%s: %v", step, err)
		}
		if have, _ := w.List("ca"); len(have) > 0 || len(w.links()) != before {
			t.Errorf("%s: left %v, links %v", step, have, w.links())
		}
	}
	w.opts.Failpoint = nil
	for i := range network.MaxAttached {
		w.attach("ca", Request{Type: network.Bridge, Master: "lan0", IP: fmt.Sprintf("192.0.2.%d/24", 100+i)})
	}
	if _, err := w.Attach(t.Context(), "ca", w.path("ca"), r); !errdefs.IsResourceExhausted(err) {
		t.Errorf("one more: %v", err)
	}
	if err := netns.Delete(w.path("ca")); err != nil {
		t.Fatal(err)
	}
	if err := w.Reconcile(t.Context(), []string{"cb"}); err != nil {
		t.Error(err)
	}
	half := w.record("cb", "eth1") + "~" // a process died while it wrote it
	if err := os.WriteFile(half, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(w.opts); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(half); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("half a record is left: %v", err)
	}
}

func FuzzCheck(f *testing.F) {
	f.Add("bridge", "br0", "192.0.2.7/24", "192.0.2.1", "02:00:00:00:00:01", 7, "eth1")
	f.Fuzz(func(t *testing.T, typ, master, addr, gateway, mac string, vlan int, ifName string) {
		r := Request{Type: typ, Master: master, IP: addr, Gateway: gateway, MAC: mac, VLAN: vlan, IfName: ifName}
		if r.Check() == nil && strings.ContainsAny(master+ifName, "/: \x00") {
			t.Errorf("accepted %+v", r)
		}
	})
}
