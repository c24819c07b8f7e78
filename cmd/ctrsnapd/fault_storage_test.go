package main_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// faultReadOnly lets nobody write to the storage by its path, as the kernel does after an
// error of the disk.
//
// What containerd was removing then it does not try again: the next collection of garbage does.
// So this waits for what somebody still has who removes it, too.
func faultReadOnly(t *testing.T, d *daemon) {
	dir := filepath.Join(d.work, "root/storage")
	waitFor(t, "what was removed to be gone", func() bool {
		bundles, err := filepath.Glob(filepath.Join(dir, "containerd/io.containerd.runtime.v2.task/ctrsnap/c*"))
		return err == nil && len(bundles) == 1 && len(d.orphans("--dry-run")) == 0
	})
	do(t, unix.Mount(dir, dir, "", unix.MS_BIND, ""))
	writable := func() { do(t, unix.Unmount(dir, unix.MNT_DETACH)) }
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		writable()
		t.Fatal(err)
	}
	defer writable()
	r := d.try(nil, "clone", "shop", "--name", "failed")
	t.Logf("exit code %d: %s", r.code, r.stderr)
	wantError(t, r, 1, "read-only file system", "dmesg")
	wantError(t, d.try(nil, "golden", "build", "late", fromHost(), "--init", "schema.sql"), 1, "read-only file system", "dmesg")
	t.Logf("orphans while it is read-only: %v", d.orphans("--dry-run"))
}

// faultStopped has the filesystem of the storage stop, which is what it sees of a loop device that goes or whose disk
// fails: XFS_IOC_GOINGDOWN of xfs_fs.h, without a last write of its log. The daemon says so and answers; a start
// mounts it anew, with the goldens, and clones have ended.
func faultStopped(t *testing.T, d *daemon) {
	defer func() {
		d.run("clone", "shop", "--name", "other", "--ttl", "3h", "--if-exists", "reset")
	}()
	const goingDown, noLogFlush = 0x8004587d, 2
	dir, err := os.Open(filepath.Join(d.work, "root/storage"))
	do(t, err)
	err = unix.IoctlSetPointerInt(int(dir.Fd()), goingDown, noLogFlush)
	dir.Close()
	do(t, err)

	wantError(t, d.try(nil, "clone", "shop", "--name", "failed"), 1, "input/output error", "restart ctrsnapd")
	waitFor(t, "the daemon to see it", func() bool { return strings.Contains(d.try(nil, "clone", "shop").stderr, "the filesystem at") })
	wantError(t, d.try(nil, "golden", "build", "late", fromHost(), "--init", "schema.sql"), 1, "input/output error", "restart ctrsnapd")
	if got := d.run("ls", "--format", "{{.name}}") + d.run("golden", "ls", "--format", "{{.name}}"); got != "othershop" {
		t.Errorf("listed are %s", got)
	}
	if got := d.try(nil, "doctor").stdout; !strings.Contains(got, "has stopped") {
		t.Errorf("doctor says %s", got)
	}
	d.restart(syscall.SIGKILL) // a stop waits half a minute for removals
	if got := d.run("ls", "-q"); got != "" {
		t.Errorf("clones after the storage had stopped: %s", got)
	}
	d.run("golden", "verify", "shop")
	if got := d.run("doctor"); strings.Contains(got, "has stopped") {
		t.Errorf("doctor says %s", got)
	}
}

// faultInodes uses up the inodes of the storage, of which there are as many as XFS is let have.
func faultInodes(t *testing.T, d *daemon) {
	waitFor(t, "what was removed to be gone", func() bool { return len(d.orphans("--dry-run")) == 0 })
	dir := filepath.Join(d.work, "root/storage")
	limit := func(percent string) {
		t.Helper()
		if out, err := exec.Command("xfs_growfs", "-m", percent, dir).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	ballast := filepath.Join(dir, "ballast")
	do(t, os.Mkdir(ballast, 0o700))
	defer os.RemoveAll(ballast)
	limit("1")
	defer limit("25")
	n := 0
	for ; ; n++ {
		if err := unix.Mknod(filepath.Join(ballast, fmt.Sprint(n)), unix.S_IFREG, 0); errors.Is(err, unix.ENOSPC) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	r := d.try(nil, "clone", "shop", "--name", "failed")
	t.Logf("after %d files: exit code %d: %s", n, r.code, r.stderr)
	if r.code != 5 || !strings.Contains(r.stderr, "no space") {
		t.Errorf("exit code %d", r.code)
	}
}

// faultMetadata damages containerd's databases while the daemon is down: it does not start, says
// which one it is, and leaves all as it is. With the file put back, clones are as they were.
func faultMetadata(t *testing.T, d *daemon) {
	whole := map[string][]byte{}
	defer func() { // a failure ends here with a database that is none
		if !t.Failed() {
			return
		}
		d.stop(syscall.SIGTERM)
		for file, b := range whole {
			do(t, os.WriteFile(file, b, 0o600))
		}
	}()
	for _, name := range metadata {
		file := filepath.Join(d.work, "root/storage/containerd", name)
		d.stop(syscall.SIGTERM)
		whole[file] = mustRead(t, file)
		for what, damaged := range map[string][]byte{
			"emptied": {}, "cut off": whole[file][:5000], "overwritten": bytes.Repeat([]byte{'x'}, len(whole[file])),
		} {
			do(t, os.WriteFile(file, damaged, 0o600))
			if err := d.launch(); err == nil {
				t.Errorf("a daemon runs with %s %s", name, what)
				d.stop(syscall.SIGTERM)
			}
			if got := d.lastWords(t); !strings.Contains(got, file) || !strings.Contains(got, "damaged") {
				t.Errorf("%s %s: the daemon says %s", name, what, got)
			}
			if !bytes.Equal(mustRead(t, file), damaged) {
				t.Errorf("%s %s was changed by a start", name, what)
			}
		}
		do(t, os.WriteFile(file, whole[file], 0o600))
		delete(whole, file)
		d.start()
	}
}

// metadata are containerd's databases.
var metadata = []string{"io.containerd.metadata.v1.bolt/meta.db", "io.containerd.snapshotter.v1.overlayfs/metadata.db"}

// lastWords are the last two lines of what the daemon has said: an error and its hint.
func (d *daemon) lastWords(t *testing.T) string {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(string(mustRead(t, d.log()))), "\n")
	return strings.Join(lines[max(0, len(lines)-2):], "\n")
}

// TestMetadataLost takes the way that a start names when containerd's database is gone: the goldens are those
// of the last checkpoint, all of them; clones end, and leave nothing.
func TestMetadataLost(t *testing.T) {
	t.Parallel()
	d := newShop(t, "[pool]\nauto = false\n")
	d.run("clone", "shop", "--name", "lost")
	d.stop(syscall.SIGKILL)
	root := filepath.Join(d.work, "root/storage")
	do(t, os.Remove(filepath.Join(root, "containerd", metadata[0])))
	boot := filepath.Join(root, "checkpoint/boot")
	if err := d.launch(); err == nil {
		t.Error("a daemon runs without metadata")
		d.stop(syscall.SIGTERM)
	}
	if got := d.lastWords(t); !strings.Contains(got, boot) {
		t.Errorf("the daemon says %s", got)
	}
	do(t, os.Remove(boot))
	d.start()
	if got := d.run("ls", "-q"); got != "" {
		t.Errorf("listed are %s", got)
	}
	var left map[string][]string
	defer func() { // a failure says what of
		if t.Failed() {
			t.Logf("left are %v", left)
		}
	}()
	waitFor(t, "the clones of before to be gone", func() bool { left = d.orphans("--dry-run"); return len(left) == 0 })
	if got := query(t, d.run("clone", "shop"), "SELECT count(*) FROM users"); got != "1000" {
		t.Errorf("a clone has %s rows", got)
	}
}
