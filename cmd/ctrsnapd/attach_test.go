package main_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// TestAttach puts a clone into networks of its host while it runs, beyond a
// crash of the daemon, and takes it out again.
func TestAttach(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	l := newLAN(t, "a", "b")
	l.ip("-n", l.ns("a"), "link", "add", "br0", "type", "bridge")
	l.ip("-n", l.ns("a"), "address", "add", "198.51.100.1/24", "dev", "br0")
	l.ip("-n", l.ns("a"), "link", "set", "dev", "br0", "up")
	d := newShopIn(t, l.enter("a"), "ahead = 2\n")
	d.run("clone", "shop", "--name", "pr-42")

	reach := func(from, addr string) error {
		args := append(l.enter(from), "timeout", "5", "bash", "-c", "</dev/tcp/"+addr+"/5432")
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s from %s: %w: %s", addr, from, err, out)
		}
		return nil
	}
	if name := d.run("net", "attach", "pr-42", "--type", "bridge", "--master", "br0", "--ip", "198.51.100.7/24"); name != "eth1" {
		t.Errorf("interface %s", name)
	}
	if err := reach("a", "198.51.100.7"); err != nil {
		t.Error(err)
	}
	d.run("net", "attach", "pr-42", "--type", "macvlan", "--master", "eth0", "--ip", "192.0.2.77/24", "--ifname", "lan")
	if err := reach("b", "192.0.2.77"); err != nil {
		t.Error(err)
	}
	for what, args := range map[string][]string{
		"192.0.2.2 is taken on eth0":     {"--type", "macvlan", "--master", "eth0", "--ip", "192.0.2.2/24"},
		"198.51.100.7":                   {"--type", "bridge", "--master", "br0", "--ip", "198.51.100.7/24"},
		"interface nonesuch of the host": {"--type", "bridge", "--master", "nonesuch", "--ip", "198.51.100.8/24"},
		"DHCP":                           {"--type", "bridge", "--master", "br0", "--ip", "dhcp"},
	} {
		if r := d.try(nil, append([]string{"net", "attach", "pr-42"}, args...)...); r.code == 0 || !strings.Contains(r.stderr, what) {
			t.Errorf("exit code %d, want it to say %q:\n%s", r.code, what, r.stderr)
		}
	}

	d.stop(syscall.SIGKILL)
	d.start()
	var list struct{ Interfaces []api.Interface }
	if err := json.Unmarshal([]byte(d.run("net", "ls", "pr-42", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	for _, i := range list.Interfaces {
		if i.Attached != nil {
			seen[i.IfName] = strings.Join(i.Addresses, " ")
		}
	}
	if fmt.Sprint(seen) != "map[eth1:198.51.100.7/24 lan:192.0.2.77/24]" {
		t.Errorf("after a crash: %v", seen)
	}
	d.run("net", "detach", "pr-42", "lan")
	if reach("b", "192.0.2.77") == nil {
		t.Error("reached after it was detached")
	}
	if r := d.try(nil, "net", "detach", "pr-42", "eth0"); r.code != 3 {
		t.Errorf("its own interface: exit code %d\n%s", r.code, r.stderr)
	}
	d.run("rm", "pr-42")
	cloneAttached(t, d, reach)
	if out := d.run("net", "ls"); !strings.Contains(out, "default") {
		t.Errorf("networks:\n%s", out)
	}
}

// cloneAttached makes clones with further interfaces, in place of each other, and
// where the daemon is killed meanwhile.
func cloneAttached(t *testing.T, d *daemon, reach func(from, addr string) error) {
	t.Helper()
	clone := []string{
		"clone", "shop", "--name", "pr-43", "--if-exists", "reset",
		"--network", "type=bridge,master=br0,ip=198.51.100.9/24", "--network", "type=macvlan,master=eth0,ip=192.0.2.79/24,mac=02:00:00:00:00:4f",
	}
	answers := func(what string) {
		for from, addr := range map[string]string{"a": "198.51.100.9", "b": "192.0.2.79"} {
			if err := reach(from, addr); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	d.run(clone...)
	answers("made")
	d.run(clone...)
	answers("made again")
	if r := d.try(nil, append(clone, "--network", "type=bridge,master=nonesuch")...); r.code == 0 || !strings.Contains(r.stderr, "nonesuch") {
		t.Errorf("exit code %d:\n%s", r.code, r.stderr)
	}
	answers("not replaced")
	old := d.run("inspect", "pr-43", "--format", "{{.id}}")
	for _, point := range []string{"clone.given", "attach.attached@2"} {
		point, nth, _ := strings.Cut(point, "@")
		d.launchAt(t, point, strings.TrimSuffix("kill@"+nth, "@"))
		if r := d.try(nil, clone...); r.code == 0 {
			t.Errorf("%s: replaced by a daemon that was killed", point)
		}
		d.restart(syscall.SIGKILL)
		if id := d.run("inspect", "pr-43", "--format", "{{.id}}"); id != old {
			t.Errorf("%s: pr-43 is %s, was %s", point, id, old)
		}
		answers("killed at " + point + " " + nth)
	}
	d.run(clone...)
	answers("replaced after all")
	d.run("rm", "pr-43")

	d.stop(syscall.SIGTERM)
	if err := d.launch("CTRSNAPD_FAILPOINT=attach.attached=kill@2"); err != nil {
		t.Fatal(err)
	}
	if r := d.try(nil, clone...); r.code == 0 {
		t.Error("made by a daemon that was killed")
	}
	d.stop(syscall.SIGKILL)
	d.start()
	if out := d.run("ls", "-o", "json"); strings.Contains(out, "pr-43") {
		t.Errorf("a clone that nobody got:\n%s", out)
	}
	// The address is free when the kernel has done with what was removed.
	made := d.try(nil, clone...)
	for until := time.Now().Add(20 * time.Second); made.code != 0 && time.Now().Before(until); {
		made = d.try(nil, clone...)
	}
	if made.code != 0 {
		t.Fatalf("after a crash: %s", made.stderr)
	}
	answers("made after a crash")
	d.run("rm", "pr-43")
	d.run(clone...)
	answers("made after it was removed")
	d.run("rm", "pr-43")
	d.run("clone", "shop", "--name", "pr-44", "--network", "none", "--network", "type=bridge,master=br0,ip=198.51.100.10/24")
	if err := reach("a", "198.51.100.10"); err != nil {
		t.Errorf("without another network: %v", err)
	}
	d.run("rm", "pr-44")
}
