package main_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// TestLimits holds clones to what they may take: the kernel memory and processes, the server
// connections, the daemon disk and the directory of their sockets.
func TestLimits(t *testing.T) {
	t.Parallel()
	d := newShop(t, "[limits.all]\nclones = 3\n[metrics]\nlisten = '127.0.0.1:0'\n")

	c := cloneJSON(t, d, "shop", "--memory", "256MiB", "--cpus", "1.5", "--pids", "60", "--connections", "3", "--name", "small")
	for file, want := range map[string]string{
		"memory/*/memory.limit_in_bytes": "268435456", "pids/*/pids.max": "60", "cpu/*/cpu.cfs_quota_us": "150000",
	} {
		if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
			break // version 2 has other names, and containerd's library writes them
		}
		got := mustRead(t, filepath.Join("/sys/fs/cgroup", strings.Replace(file, "/*", d.cgroup()+"/"+c.ID, 1)))
		if strings.TrimSpace(string(got)) != want {
			t.Errorf("%s is %s, want %s", file, got, want)
		}
	}
	if got := query(t, c.URL, "SHOW max_connections"); got != "3" {
		t.Errorf("max_connections %s", got)
	}
	d.run("rm", "small")

	for _, dir := range []string{"clones", "builds"} { // what is written there fills nothing of the host's
		var run, fs syscall.Statfs_t
		if err := errors.Join(syscall.Statfs(d.state, &run), syscall.Statfs(filepath.Join(d.state, dir), &fs)); err != nil || fs.Fsid == run.Fsid || fs.Blocks*uint64(fs.Bsize) != 128<<20 {
			t.Errorf("%s: %+v, %v", dir, fs, err)
		}
	}
	for what, statement := range map[string]string{
		"a file":         "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 2000)) TO '/ctrsnap/run/x'",
		"a removed file": "COPY (SELECT) TO PROGRAM 'exec 3>/ctrsnap/run/x; rm /ctrsnap/run/x; head -c 80M /dev/zero >&3'",
	} {
		writer := cloneJSON(t, d, "shop")
		if _, err := tryQuery(writer.URL, statement); err == nil {
			t.Errorf("%s beside the socket is written", what)
		}
		var own syscall.Statfs_t
		if err := syscall.Statfs(filepath.Join(d.state, "clones", writer.ID, "s"), &own); err != nil || own.Blocks*uint64(own.Bsize) != 1<<20 || own.Files != 64 {
			t.Errorf("room beside the socket: %+v, %v", own, err)
		}
		if got := query(t, writer.URL, "SELECT count(*) FROM users"); got != "1000" {
			t.Errorf("a clone that has filled what is beside its socket has %s rows", got)
		}
		d.run("rm", writer.ID)
	}

	greedy := cloneJSON(t, d, "shop", "--disk", "48MiB")
	other := cloneJSON(t, d, "shop", "--disk", "1GiB")
	for range 40 { // until it is stopped
		if _, err := tryQuery(greedy.URL, "CREATE TABLE IF NOT EXISTS fat (t text); INSERT INTO fat SELECT repeat(md5(random()::text), 30) FROM generate_series(1, 20000)"); err != nil {
			break
		}
	}
	waitFor(t, "the clone that holds too much to be stopped", func() bool {
		return d.run("inspect", greedy.ID, "--format", "{{.state}}") == string(api.StateDead)
	})
	if why := d.run("inspect", greedy.ID, "--format", "{{.reason}}"); !strings.Contains(why, "of disk, its limit is 48 MiB") {
		t.Errorf("inspect says %q", why)
	}
	hider := cloneJSON(t, d, "shop", "--disk", "48MiB")
	_, _ = tryQuery(hider.URL, "COPY (SELECT) TO PROGRAM 'exec 3>hidden; rm hidden; head -c 80M /dev/zero >&3; sleep 600'")
	waitFor(t, "the clone that holds too much in a removed file to be stopped", func() bool {
		return strings.Contains(d.run("inspect", hider.ID, "--format", "{{.state}} {{.reason}}"), "of disk, its limit is 48 MiB")
	})
	d.run("rm", hider.ID)
	if got := query(t, other.URL, "SELECT count(*) FROM users"); got != "1000" {
		t.Errorf("the other has %s rows", got)
	}
	if got := d.run("events", "--type", "clone.stopped", "--clone", greedy.ID); !strings.Contains(got, "its limit is 48 MiB") {
		t.Errorf("events: %s", got)
	}
	d.run("clone", "shop")
	wantError(t, d.try(nil, "clone", "shop"), 5, "3 clones in all")
	wantError(t, d.try(nil, "clone", "shop", "--wait-timeout", "10ms"), 5, "3 clones in all")
	if got := d.run("stats"); !strings.Contains(got, greedy.ID) || !strings.Contains(got, "/48.0MiB") {
		t.Errorf("stats: %s", got)
	}
	if got := d.run("doctor", "--fix", "-o", "json"); !strings.Contains(got, "MiB of the host's disk") {
		t.Errorf("doctor --fix: %s", got)
	}
}

// TestProcessLease: a clone lives as long as a process, also if the daemon is killed
// meanwhile; one that is protected is ended by force.
func TestProcessLease(t *testing.T) {
	t.Parallel()
	d := newShop(t, "")
	job := exec.Command("sleep", "600")
	if err := job.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { job.Process.Kill(); job.Wait() })
	d.run("clone", "shop", "--name", "leased", "--lease", fmt.Sprintf("pid:%d", job.Process.Pid))
	d.run("clone", "shop", "--name", "kept", "--protect")
	d.run("clone", "shop", "--name", "idle", "--idle-ttl", "2s")
	wantError(t, d.try(nil, "rm", "kept"), 8, "protected")
	d.restart(syscall.SIGKILL)
	d.run("inspect", "leased")
	job.Process.Kill()
	job.Wait()
	waitFor(t, "the clone of a killed process to go", func() bool { return d.try(nil, "inspect", "leased").code == 3 })
	waitFor(t, "the clone that nobody uses to go", func() bool { return d.try(nil, "inspect", "idle").code == 3 })
	if got := d.run("events", "-o", "json", "--type", "clone.expired"); !strings.Contains(got, "its lease has ended") || !strings.Contains(got, "nobody was connected") {
		t.Errorf("events: %s", got)
	}
	d.run("clone", "shop", "--set", "work_mem=8MB") // which no member of the pool has
	d.run("rm", "--force", "kept")

	var lines []map[string]any
	for line := range strings.Lines(string(mustRead(t, filepath.Join(d.work, "root", "audit.log")))) {
		var doc map[string]any
		if err := json.Unmarshal([]byte(line), &doc); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, doc)
	}
	last := lines[len(lines)-1]
	if last["method"] != "DELETE" || last["path"] != "/v1/clones/kept" || last["uid"] != 0.0 || last["status"] != 204.0 {
		t.Errorf("audit: %v", last)
	}
	resp, err := socketClient(d).Get("http://ctrsnap/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	for _, want := range []string{`ctrsnap_clone_stage_seconds_count{stage="ready",way="cold"}`, `ctrsnap_reconcile_total{result="adopted"} 3`, "ctrsnap_storage_low 0"} {
		if resp.StatusCode != http.StatusOK || !strings.Contains(string(text), want) {
			t.Errorf("metrics: %s, no %s", resp.Status, want)
		}
	}
}
