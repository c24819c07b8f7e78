package main_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// flannelTimeout bounds each wait for something of flannel's.
const flannelTimeout = 30 * time.Second

// flannelDir is where flannel's programs are.
func flannelDir(t *testing.T) string {
	t.Helper()
	bin, err := filepath.Abs(cmp.Or(os.Getenv("CTRSNAP_TEST_FLANNEL"), "../../.cache/flannel"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"flanneld", "etcd", "flannel"} {
		if _, err := os.Stat(filepath.Join(bin, p)); err != nil {
			if os.Getenv("CTRSNAP_TEST_FLANNEL") != "" {
				t.Fatal(err)
			}
			t.Skip("needs flanneld and etcd, which take minutes to build: 'make test-network' does, or .ci/flannel-setup once")
		}
	}
	return bin
}

// lan is network namespaces on one link, as hosts are on one switch.
type lan struct {
	t      *testing.T
	bin    string // flannel's programs
	prefix string // of the namespaces' names
	dir    string
}

var lans atomic.Int32

// newPrefix returns one that no other lan has.
func newPrefix() string { return fmt.Sprintf("cst%d-%d", os.Getpid(), lans.Add(1)) }

// newLAN makes a namespace for each host, with 192.0.2.1, 192.0.2.2 and so on.
func newLAN(t *testing.T, hosts ...string) *lan {
	t.Helper()
	l := &lan{t: t, prefix: newPrefix(), dir: t.TempDir()}
	l.add("switch")
	l.ip("-n", l.ns("switch"), "link", "add", "lan", "type", "bridge")
	l.ip("-n", l.ns("switch"), "link", "set", "lan", "up")
	for i, host := range hosts {
		l.add(host)
		ns := l.ns(host)
		l.ip("-n", ns, "link", "add", "eth0", "type", "veth", "peer", "name", "to-"+host, "netns", l.ns("switch"))
		l.ip("-n", l.ns("switch"), "link", "set", "dev", "to-"+host, "master", "lan", "up")
		l.ip("-n", ns, "address", "add", fmt.Sprintf("192.0.2.%d/24", i+1), "dev", "eth0")
		for _, link := range []string{"lo", "eth0"} {
			l.ip("-n", ns, "link", "set", link, "up")
		}
	}
	return l
}

func (l *lan) ns(host string) string { return l.prefix + host }

func (l *lan) add(host string) {
	l.t.Helper()
	l.ip("netns", "add", l.ns(host))
	l.t.Cleanup(func() { _ = exec.Command("ip", "netns", "delete", l.ns(host)).Run() })
}

func (l *lan) ip(args ...string) {
	l.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		l.t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// enter runs a program as on a host.
func (l *lan) enter(host string) []string {
	return []string{"nsenter", "--net=/run/netns/" + l.ns(host)}
}

// start runs a program on a host until stop or the end of the test.
func (l *lan) start(host, program string, args ...string) (stop func()) {
	l.t.Helper()
	log, err := os.OpenFile(filepath.Join(l.dir, host+"-"+program+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		l.t.Fatal(err)
	}
	defer log.Close()
	all := append(append(l.enter(host), filepath.Join(l.bin, program)), args...)
	cmd := exec.Command(all[0], all[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		_ = cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		kill.Stop()
		if l.t.Failed() {
			b, _ := os.ReadFile(log.Name())
			l.t.Logf("%s of %s:\n%s", program, host, lastOf(b))
		}
	}
	l.t.Cleanup(stop)
	return stop
}

func lastOf(b []byte) []byte { return b[max(0, len(b)-3000):] }

// await waits until a condition holds.
func (l *lan) await(t *testing.T, what string, cond func() error) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(flannelTimeout); ; <-tick.C {
		err := cond()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// etcd runs etcd on a host and returns its address.
func (l *lan) etcd(host, addr string) string {
	l.t.Helper()
	url := "http://" + addr + ":2379"
	l.start(host, "etcd", "--data-dir", filepath.Join(l.dir, "etcd"), "--listen-client-urls", url, "--advertise-client-urls", url,
		"--listen-peer-urls", "http://127.0.0.1:2380", "--unsafe-no-fsync", "--log-level", "error")
	return url
}

// configure writes flannel's configuration into etcd, by its gateway for JSON.
func (l *lan) configure(host, url, backend string) {
	l.t.Helper()
	code := base64.StdEncoding.EncodeToString
	conf := fmt.Sprintf(`{"Network": "10.96.0.0/16", "Backend": {"Type": %q}}`, backend)
	body := fmt.Sprintf(`{"key": %q, "value": %q}`, code([]byte("/coreos.com/network/config")), code([]byte(conf)))
	l.await(l.t, "write flannel's configuration", func() error {
		args := append(l.enter(host), "curl", "-fsS", "--max-time", "5", "-d", body, url+"/v3/kv/put")
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

func (l *lan) subnetFile(host string) string { return filepath.Join(l.dir, host+".env") }

// flanneld runs flannel on a host, until it has a route to the others.
func (l *lan) flanneld(url string, hosts ...string) (stop func()) {
	l.t.Helper()
	var stops []func()
	began := time.Now()
	for _, host := range hosts {
		stops = append(stops, l.start(host, "flanneld", "--etcd-endpoints", url, "--iface", "eth0", "--ip-masq", "--subnet-file", l.subnetFile(host)))
	}
	for _, host := range hosts {
		l.await(l.t, "wait for flannel on "+host, func() error {
			info, err := os.Stat(l.subnetFile(host))
			if err != nil {
				return err
			}
			if info.ModTime().Before(began) {
				return fmt.Errorf("%s is old", info.Name())
			}
			out, err := exec.Command("ip", "-n", l.ns(host), "route", "list", "root", "10.96.0.0/16").Output()
			if err != nil || !bytes.Contains(out, []byte(" via ")) {
				return fmt.Errorf("no route to the others: %s %w", out, os.ErrNotExist)
			}
			return nil
		})
	}
	return func() {
		for _, stop := range stops {
			stop()
		}
	}
}

// TestFlannel has clones on two hosts reach each other, by flannel as it is.
func TestFlannel(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	bin := flannelDir(t)
	l := newLAN(t, "a", "b", "e")
	l.bin = bin
	url := l.etcd("e", "192.0.2.3")
	l.configure("e", url, "vxlan")
	stop := l.flanneld(url, "a", "b")
	daemons := map[string]*daemon{}
	for host, plugins := range map[string]string{"a": "", "b": bin} { // b has flannel's CNI plugin
		d := newDaemonIn(t, l.enter(host), fmt.Sprintf("use = \"flannel\"\nflannel_file = %q\nbin_dirs = [%q]\nahead = 2\n", l.subnetFile(host), plugins))
		d.file("schema.sql", schema)
		d.run("golden", "build", "shop", fromHost(), "--init", "schema.sql")
		daemons[host] = d
	}
	first := map[string]api.Clone{"a": cloneJSON(t, daemons["a"], "shop"), "b": cloneJSON(t, daemons["b"], "shop")}
	if a, b := first["a"].Host, first["b"].Host; !strings.HasPrefix(a, "10.96.") || a[:strings.LastIndex(a, ".")] == b[:strings.LastIndex(b, ".")] {
		t.Fatalf("clones at %s and %s are not of two subnets", a, b)
	}
	across := func(t *testing.T, clones map[string]api.Clone) {
		t.Helper()
		for from, to := range map[string]string{"a": "b", "b": "a"} {
			c := clones[to]
			l.await(t, "query from "+from+" to "+to, func() error {
				if got, err := queryIn("/run/netns/"+l.ns(from), c.URL, netip.MustParseAddr(c.Host)); got != "1000" {
					return fmt.Errorf("answer %q: %w", got, err)
				}
				return nil
			})
			mustNotDial(t, "another lease's clone on another host", clones[from], fmt.Sprintf("%s:%d", c.Host, c.Port))
		}
	}
	for _, mode := range []string{"vxlan", "host-gw"} {
		t.Run(mode, func(t *testing.T) {
			if mode != "vxlan" {
				stop()
				for _, host := range []string{"a", "b"} {
					l.ip("-n", l.ns(host), "link", "delete", "flannel.1")
				}
				l.configure("e", url, mode)
				stop = l.flanneld(url, "a", "b")
			}
			across(t, first)
			stop()
			stop = l.flanneld(url, "a", "b")
			across(t, first)
			across(t, map[string]api.Clone{"a": cloneJSON(t, daemons["a"], "shop"), "b": cloneJSON(t, daemons["b"], "shop")})
		})
	}
	// A lease that is lost: new clones are in the new subnet, the old one lives on.
	env := string(mustRead(t, l.subnetFile("a")))
	old := first["a"].Host[:strings.LastIndex(first["a"].Host, ".")]
	lost := strings.ReplaceAll(env, old+".", "10.96.250.")
	if err := os.WriteFile(l.subnetFile("a"), []byte(lost), 0o600); err != nil {
		t.Fatal(err)
	}
	if c := cloneJSON(t, daemons["a"], "shop"); !strings.HasPrefix(c.Host, "10.96.250.") {
		t.Errorf("clone has address %s, want one of 10.96.250.0/24", c.Host)
	}
	if log := daemons["a"].logs(); !strings.Contains(log, "flannel subnet has changed") || !strings.Contains(log, "now=10.96.250.0/24") {
		t.Error("the log does not say that flannel's subnet has changed")
	}
	ctx, cancel := context.WithTimeout(t.Context(), flannelTimeout)
	defer cancel()
	if err := exec.CommandContext(ctx, "nsenter", "--net=/run/netns/"+l.ns("a"), "bash", "-c", "</dev/tcp/"+first["a"].Host+"/5432").Run(); err != nil {
		t.Errorf("a clone of the lost lease is not reached from its host: %v", err)
	}
}

func (d *daemon) logs() string {
	b, _ := os.ReadFile(d.log())
	return string(b)
}
