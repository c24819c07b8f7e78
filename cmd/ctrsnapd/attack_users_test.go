package main_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestAttackUsers: what alice runs in a build and in a clone, root there too, would be somebody on the host.
func TestAttackUsers(t *testing.T) {
	t.Parallel()
	for runtime, first := range map[string]int{"ctrsnap": 0x6ffd0000, "runc": 0x6ffc0000} {
		t.Run(runtime, func(t *testing.T) {
			t.Parallel()
			d := newTarget(t, fmt.Sprintf("[containerd]\nruntime = %q\nids = %d\n", runtime, first))
			t.Run("build", func(t *testing.T) { attackFromBuild(t, d, first) })
			t.Run("clone", func(t *testing.T) { attackFromClone(t, d, first) })
			t.Run("neighbour", func(t *testing.T) { attackNeighbour(t, d) })
		})
	}
}

// attackFromBuild has a script of alice's build wait while its processes are looked at.
func attackFromBuild(t *testing.T, d *daemon, first int) {
	script := d.file("wait.sh", "#!/bin/sh\nwhile ! [ -e /ctrsnap/run/go ]; do sleep 0.1; done\n")
	built := make(chan result, 1)
	go func() { built <- d.tryAs(alice, "golden", "build", "hers", "--parent=shop", "--init", script) }()
	var id string
	var pids []int
	waitFor(t, "the build's script", func() bool {
		builds, _ := os.ReadDir(filepath.Join(d.state, "builds"))
		if len(builds) != 1 {
			return len(built) > 0
		}
		id = builds[0].Name()
		pids = processesOf(t, d, id)
		return slices.ContainsFunc(pids, func(pid int) bool { return strings.Contains(commandLine(pid), "wait.sh") })
	})
	for _, pid := range pids {
		wantNobody(t, fmt.Sprintf("a build's %.50s", commandLine(pid)), pid, first)
	}
	if len(pids) > 0 {
		attackAsRootOf(t, d, "a build", pids[0])
	}
	if id != "" {
		do(t, os.WriteFile(filepath.Join(d.state, "builds", id, "s", "go"), nil, 0o644))
	}
	if r := <-built; r.code != 0 {
		t.Errorf("alice's build: %s", r.stderr)
	}
}

func attackFromClone(t *testing.T, d *daemon, first int) {
	c := cloneAs(t, d, alice)
	for _, pid := range processesOf(t, d, c.ID) {
		wantNobody(t, fmt.Sprintf("a clone's %.50s", commandLine(pid)), pid, first)
	}
	r := d.tryAs(alice, "exec", "--user", "0", c.ID, "--", "cat", "/proc/self/uid_map")
	if got := strings.Fields(r.stdout); r.code != 0 || !slices.Equal(got, []string{"0", strconv.Itoa(first), "65536"}) {
		t.Errorf("exec --user 0: %q, %s", got, r.stderr)
	} else {
		fails(t, "exec --user 0 in a clone", "it is user "+got[1]+" of the host")
	}
	attackAsRootOf(t, d, "a clone", c.PID)
}

// attackNeighbour has root of alice's clone become the user that bob's server is: all clones have the same numbers. It is handed a
// descriptor of that server in /proc, as alice can open one.
func attackNeighbour(t *testing.T, d *daemon) {
	hers, his := cloneAs(t, d, alice), cloneAs(t, d, bob)
	info, err := os.Stat(fmt.Sprintf("/proc/%d", his.PID))
	do(t, err)
	inside := string(mustRead(t, fmt.Sprintf("/proc/%d/uid_map", hers.PID)))
	uid := int(info.Sys().(*syscall.Stat_t).Uid)
	var first int
	_, err = fmt.Sscan(strings.Fields(inside)[1], &first)
	do(t, err)
	proc, err := os.Open(fmt.Sprintf("/proc/%d", his.PID))
	do(t, err)
	defer func() { do(t, proc.Close()) }()
	for _, file := range []string{"environ", "mem", "maps", "fd/0", "root/etc/passwd", "cwd/PG_VERSION"} {
		args := []string{program(t, "nsenter"), fmt.Sprintf("--user=/proc/%d/ns/user", hers.PID), fmt.Sprintf("--setuid=%d", uid-first), "--setgid=0", "--",
			program(t, "head"), "-c", "1", "/proc/self/fd/3/" + file}
		out, err := asUser(t, 0, 0, []*os.File{proc}, args...)
		wantDenied(t, "alice's process, of the same number on the host, opens "+file+" of bob's server", "Permission denied", out, err)
	}
	if out, err := asUser(t, uint32(uid), uint32(uid), []*os.File{proc}, program(t, "head"), "-c", "1", "/proc/self/fd/3/stat"); err != nil {
		t.Errorf("the attack itself is wrong: %v: %s", err, out)
	}
}

// processesOf are those in the cgroup of a container.
func processesOf(t *testing.T, d *daemon, id string) (pids []int) {
	t.Helper()
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/pids"} {
		b, err := os.ReadFile(filepath.Join(pattern, d.cgroup(), id, "cgroup.procs"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			continue
		}
		do(t, err)
		for _, text := range strings.Fields(string(b)) {
			pid, err := strconv.Atoi(text)
			do(t, err)
			pids = append(pids, pid)
		}
	}
	return pids
}

func commandLine(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // it may have ended
	return strings.TrimSpace(strings.NewReplacer("\x00", " ", "\n", " ").Replace(string(b)))
}

var idsRE = regexp.MustCompile(`(?m)^(?:Uid|Gid|Groups):(.*)$`)

// wantNobody wants a process to be nobody on the host, and never to become anybody: no id of it, and none that it may take, is
// one of a user there.
func wantNobody(t *testing.T, what string, pid, first int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if errors.Is(err, fs.ErrNotExist) {
		return // it has ended
	}
	do(t, err)
	var ids []string
	for _, m := range idsRE.FindAllStringSubmatch(string(status), -1) {
		ids = append(ids, strings.Fields(m[1])...)
	}
	for _, text := range ids {
		if id, err := strconv.Atoi(text); err != nil || id < first || id >= first+65536 {
			t.Errorf("%s has the id %s on the host", what, text)
		}
	}
	for _, name := range []string{"uid_map", "gid_map"} {
		got := strings.Fields(string(mustRead(t, fmt.Sprintf("/proc/%d/%s", pid, name))))
		if !slices.Equal(got, []string{"0", strconv.Itoa(first), "65536"}) {
			t.Errorf("%s has the %s %q", what, name, got)
		}
	}
	fails(t, "be somebody on the host as "+what, "it is "+ids[0]+" there")
}

// attackAsRootOf hands a descriptor of the host's root to root of a container, with all the capabilities that there are: no
// process there has as many. It is in the host's mount namespace even.
func attackAsRootOf(t *testing.T, d *daemon, what string, pid int) {
	t.Helper()
	root, err := os.Open("/")
	do(t, err)
	defer func() { do(t, root.Close()) }()
	secret := d.file("secret", "secret")
	do(t, os.Chmod(secret, 0o600))
	for attack, args := range map[string][]string{
		"read a file of root's":        {program(t, "cat"), "/proc/self/fd/3" + secret},
		"write beside it":              {program(t, "touch"), "/proc/self/fd/3" + d.work + "/planted"},
		"connect to ctrsnapd's socket": {d.reachable(filepath.Join(binDir(), "ctrsnap")), "--host", d.host(), "ls"},
	} {
		enter := []string{program(t, "nsenter"), fmt.Sprintf("--user=/proc/%d/ns/user", pid), "--setuid=0", "--setgid=0", "--"}
		out, err := asUser(t, 0, 0, []*os.File{root}, append(enter, args...)...)
		if err == nil || !strings.Contains(out, "Permission denied") && !strings.Contains(out, "not allowed to connect") {
			t.Errorf("root of %s: %s: %v: %s", what, attack, err, out)
			continue
		}
		fails(t, "root of "+what+" with a descriptor of /: "+attack, out)
		if out, err := asUser(t, 0, 0, []*os.File{root}, args...); err != nil { // the same where nothing is in the way
			t.Errorf("the attack itself is wrong: %s: %v: %s", attack, err, out)
		}
	}
}
