package attach

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/network"
)

// dhcpServer runs dnsmasq on the neighbour: it gives 192.0.2.100 to .110, and has
// leases renewed each second. It returns what it says.
func (w *world) dhcpServer() (said func() string) {
	w.t.Helper()
	if _, err := exec.LookPath("dnsmasq"); err != nil {
		w.t.Fatal(err)
	}
	path := filepath.Join(w.t.TempDir(), "log")
	log, err := os.Create(path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("nsenter", "--net="+w.path("peer"), "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0",
		"--interface=eth0", "--bind-interfaces", "--dhcp-range=192.0.2.100,192.0.2.110,2m", "--dhcp-option-force=option:T1,3", "--no-ping",
		"--dhcp-option-force=option:T2,60", "--dhcp-leasefile="+path+".leases", "--user=root", "--log-facility=-", "--pid-file=", "--log-dhcp")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	said = func() string {
		b, err := os.ReadFile(path)
		if err != nil {
			w.t.Fatal(err)
		}
		return string(b)
	}
	w.await(said, "DHCP, IP range", 1)
	return said
}

// await waits until the server has said something n times.
func (w *world) await(said func() string, what string, n int) {
	w.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(25 * time.Second); strings.Count(said(), what) < n; <-tick.C {
		if time.Now().After(deadline) {
			w.t.Fatalf("the server has not said %s %d times:\n%s", what, n, said())
		}
	}
}

func TestDHCP(t *testing.T) {
	for name, r := range map[string]Request{
		"bridge":  {Type: network.Bridge, Master: "lan0", IP: network.DHCP},
		"macvlan": {Type: network.Macvlan, Master: "nic0", IP: network.DHCP, MAC: "02:00:00:00:00:07"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			ip(t, "link", "add", "nic0", "type", "veth", "peer", "name", "port0")
			t.Cleanup(func() { _ = exec.Command("ip", "link", "delete", "nic0").Run() })
			ip(t, "link", "set", "dev", "port0", "master", "lan0", "up")
			ip(t, "link", "set", "dev", "nic0", "up")
			said := w.dhcpServer()
			w.clone("ca")
			att := w.attach("ca", r)
			if !strings.HasPrefix(att.IP, "192.0.2.1") || !strings.HasSuffix(att.IP, "/24") || !att.DHCP || att.Gateway != "192.0.2.50" {
				t.Errorf("attached %+v", att)
			}
			if err := w.reaches("ca", "192.0.2.50"); err != nil {
				t.Errorf("%+v: %v", att, err)
			}
			// It is renewed, whoever watches.
			second, err := Open(w.opts)
			if err != nil {
				t.Fatal(err)
			}
			w.await(said, "DHCPACK", strings.Count(said(), "DHCPACK")+2)
			if have, err := second.List("ca"); err != nil || len(have) != 1 || have[0] != att {
				t.Errorf("list: %v, %v", have, err)
			}
			if err := second.Detach(t.Context(), "ca", w.path("ca"), att.IfName); err != nil {
				t.Error(err)
			}
			w.noDHCP()
			// Its clone is gone, and the daemon was killed before.
			w.attach("ca", r)
			if out, err := exec.Command("pkill", "-f", w.dhcpFile("sock")).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			w.noDHCP() // it listens until it ends
			if err := w.Forget(t.Context(), "ca"); err != nil {
				t.Error(err)
			}
			w.noDHCP()
			ip(t, "link", "delete", "nic0")
		})
	}
}

// noDHCP fails where the plugin's daemon outlives all leases.
func (w *world) noDHCP() {
	w.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); ; <-tick.C {
		out, err := exec.Command("pgrep", "-f", w.dhcpFile("sock")).Output()
		if err != nil && len(out) == 0 {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("process %s runs on", out)
		}
	}
}

// TestNoDHCPServer has nobody answer.
func TestNoDHCPServer(t *testing.T) {
	w := newWorld(t)
	w.clone("ca")
	_, err := w.Attach(t.Context(), "ca", w.path("ca"), Request{Type: network.Bridge, Master: "lan0", IP: network.DHCP})
	if err == nil || !strings.Contains(err.Error(), "dhcp") && !strings.Contains(err.Error(), "DHCP") || errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v", err)
	}
	if have, _ := w.List("ca"); len(have) > 0 {
		t.Errorf("left: %v", have)
	}
	w.noDHCP()
}

// TestNoDHCPPlugin finds that out while there is nothing to be undone.
func TestNoDHCPPlugin(t *testing.T) {
	w := newWorld(t)
	path := w.clone("c1")
	w.opts.BinDirs = []string{t.TempDir()}
	_, err := w.Attach(t.Context(), "c1", path, Request{Type: network.Bridge, Master: "lan0", IP: network.DHCP})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "plugin dhcp") {
		t.Error(err)
	}
	if have, err := w.List("c1"); err != nil || len(have) > 0 {
		t.Errorf("recorded: %v, %v", have, err)
	}
}
