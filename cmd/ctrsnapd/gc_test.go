package main_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ctrsnap/ctrsnap/network/firewall"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// orphans returns what nobody has, by kind.
func (d *daemon) orphans(args ...string) map[string][]string {
	d.t.Helper()
	var g api.GC
	if err := json.Unmarshal([]byte(d.run(append([]string{"gc", "-o", "json"}, args...)...)), &g); err != nil {
		d.t.Fatal(err)
	}
	found := map[string][]string{}
	for _, k := range g.Kinds {
		if len(k.Orphans) > 0 {
			found[k.Kind] = k.Orphans
		}
		for _, e := range k.Errors {
			d.t.Errorf("%s: %s", k.Kind, e)
		}
	}
	return found
}

// TestGC leaves one thing of each kind behind: it is shown, then removed, by hand and by
// the next start. What clones have is not touched.
func TestGC(t *testing.T) {
	t.Parallel()
	d := newShop(t, "[pool]\nauto = false\n")
	url := d.run("clone", "shop", "--name", "kept")
	if found := d.orphans("--dry-run"); len(found) > 0 {
		t.Errorf("of a daemon that lost nothing: %v", found)
	}
	const id = "cgarbage0000"
	cgroups, _ := filepath.Glob("/sys/fs/cgroup/*" + d.cgroup())
	if len(cgroups) == 0 {
		cgroups = []string{"/sys/fs/cgroup" + d.cgroup()}
	}
	tasks := filepath.Join(d.state, "containerd/io.containerd.runtime.v2.task/ctrsnap", id)
	litter := func() map[string][]string {
		for _, dir := range []string{filepath.Join(cgroups[0], id), filepath.Join(d.state, "clones", id), filepath.Join(tasks, "rootfs")} {
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if err := syscall.Mount("none", filepath.Join(tasks, "rootfs"), "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		fifo := filepath.Join(d.state, "fifo/123")
		do(t, os.MkdirAll(fifo, 0o700))
		run(t, "nft", "add", "element", "inet", firewall.New(d.state).Table(), "egress4", "{ 203.0.113.9 }")
		socket := filepath.Join(d.state, "containerd/s/dead")
		fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
		if err == nil {
			err = syscall.Bind(fd, &syscall.SockaddrUnix{Name: socket})
			syscall.Close(fd)
		}
		if err != nil {
			t.Fatal(err)
		}
		image := d.file("root/image", strings.Repeat("x", 1<<20))
		out, err := exec.Command("losetup", "--show", "-f", image).Output()
		if err != nil {
			t.Fatal(err)
		}
		return map[string][]string{
			"cgroups": {id}, "mounts": {filepath.Join(tasks, "rootfs")}, "sockets of shims": {socket},
			"firewall rules": {"egress4 203.0.113.9"}, "fifos": {fifo},
			"loop devices": {strings.TrimSpace(string(out))}, "directories": {filepath.Join(d.state, "clones", id), tasks},
		}
	}
	want := litter()
	for _, args := range [][]string{{"--dry-run"}, {"--dry-run"}, {}} {
		if diff := cmp.Diff(want, d.orphans(args...)); diff != "" {
			t.Errorf("gc %v: %s", args, diff)
		}
	}
	if found := d.orphans("--dry-run"); len(found) > 0 {
		t.Errorf("left after gc: %v", found)
	}
	d.stop(syscall.SIGKILL)
	want = litter()
	d.start()
	if found := d.orphans("--dry-run"); len(found) > 0 {
		t.Errorf("left after a start: %v", found)
	}
	// The task is containerd's to remove, and the directory the manager's, which counts it.
	for _, said := range []string{want["cgroups"][0], want["loop devices"][0], want["sockets of shims"][0], want["fifos"][0], "203.0.113.9", "orphans=1"} {
		if !strings.Contains(d.logTail(), said) {
			t.Errorf("the log says nothing of %s:\n%s", said, d.logTail())
		}
	}
	if got := query(t, url, "SELECT count(*) FROM users"); got != "1000" {
		t.Errorf("the clone has %s rows", got)
	}
}
