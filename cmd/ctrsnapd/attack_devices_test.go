package main_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

// TestAttackImageFiles: alice brings images and data directories with files that the daemon would open for her.
func TestAttackImageFiles(t *testing.T) {
	t.Parallel()
	d := newTarget(t, "")
	schema := filepath.Join(d.work, "schema.sql")
	for kind, hdr := range map[string]*tar.Header{
		"block device":     {Name: "ctrsnap/pg_hba.conf", Typeflag: tar.TypeBlock, Mode: 0o666, Devmajor: 7, Devminor: 3},
		"character device": {Name: "srv/zero", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 5},
		"FIFO":             {Name: "ctrsnap/pg_hba.conf", Typeflag: tar.TypeFifo, Mode: 0o666},
	} {
		archive := d.file("image.tar", hostileImage(t, hdr))
		r := d.tryAs(alice, "golden", "build", "evil", "--image-archive", archive, "--init", schema)
		wantError(t, r, 2, hdr.Name+" is a "+kind)
		fails(t, "image with a "+kind, r.stderr)
	}
	for kind, hdr := range map[string]*tar.Header{
		"FIFO":          {Name: "PG_VERSION", Typeflag: tar.TypeFifo, Mode: 0o666},
		"symbolic link": {Name: "PG_VERSION", Typeflag: tar.TypeSymlink, Linkname: "/etc/shadow"},
		"hard link":     {Name: "PG_VERSION", Typeflag: tar.TypeLink, Linkname: "/etc/shadow"},
	} {
		content := archiveOf(t, hdr)
		part := client.Part{Kind: api.PartDirTar, Name: "data", Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }}
		_, _, err := d.client.Build(t.Context(), api.BuildRequest{Name: "evil", FromHost: true}, []client.Part{part}, nil) // the command line sends none
		if err == nil || !strings.Contains(err.Error(), "PG_VERSION") {
			t.Errorf("data directory with a %s: %v", kind, err)
			continue
		}
		fails(t, "data directory with a "+kind, err.Error())
	}
	if r := d.tryAs(alice, "golden", "build", "mine", "--parent=shop", "--init", d.file("more.sql", "CREATE TABLE more (i int);")); r.code != 0 {
		t.Errorf("slots of builds are held: %s", r.stderr)
	}
}

// TestAttackOldGolden: a golden of a release that let devices and FIFOs in is cloned and built on by alice, who is handed
// a descriptor of her clone's root filesystem, as a server can hand her one.
func TestAttackOldGolden(t *testing.T) {
	t.Parallel()
	for _, runtime := range []string{"ctrsnap", "runc"} {
		t.Run(runtime, func(t *testing.T) {
			t.Parallel()
			testOldGolden(t, newTarget(t, fmt.Sprintf("[containerd]\nruntime = %q\n", runtime)))
		})
	}
}

func testOldGolden(t *testing.T, d *daemon) {
	layer := goldenLayer(t, d)
	disk, number := loopDevice(t, d)
	nodes := func(dir string) {
		for path, dev := range map[string]uint64{"disk": number, "zero": unix.Mkdev(1, 5)} {
			kind := uint32(unix.S_IFBLK)
			if path == "zero" {
				kind = unix.S_IFCHR
			}
			do(t, unix.Mknod(filepath.Join(dir, path), kind, int(dev)))
			do(t, os.Chmod(filepath.Join(dir, path), 0o666))
		}
		do(t, os.WriteFile(filepath.Join(dir, "id"), mustRead(t, program(t, "id")), 0o755))
		do(t, os.Chmod(filepath.Join(dir, "id"), 0o755|os.ModeSetuid))
	}
	nodes(layer)
	data := dataDirOf(t, layer)
	do(t, unix.Mkfifo(filepath.Join(data, "log"), 0o666))
	open := t.TempDir() // the same where nothing is in the way
	do(t, os.Chmod(open, 0o755))
	nodes(open)

	url := d.tryAs(alice, "clone", "shop", "--name", "hers", "-o", "json")
	if url.code != 0 {
		t.Fatalf("clone: %s", url.stderr)
	}
	pid := pidOf(t, url.stdout)
	for what, dir := range map[string]string{"a clone's root": fmt.Sprintf("/proc/%d/root", pid), "": open} {
		root, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
		do(t, err)
		for _, node := range []string{"disk", "zero"} {
			out, err := asUser(t, alice, nogroup, []*os.File{root}, program(t, "head"), "-c", "8", "/proc/self/fd/3/"+node)
			if what == "" && err != nil {
				t.Errorf("the attack itself is wrong: %s: %v: %s", node, err, out)
			} else if what != "" {
				wantDenied(t, "open "+node+" below "+what, "Permission denied", out, err)
			}
		}
		out, err := asUser(t, alice, nogroup, []*os.File{root}, "/proc/self/fd/3/id", "-u")
		switch {
		case err != nil:
			t.Errorf("run id below %q: %v: %s", dir, err, out)
		case what == "" && out != "0":
			t.Errorf("the attack itself is wrong: id says %s", out)
		case what != "" && out != fmt.Sprint(alice):
			t.Errorf("a program of a clone runs as %s on the host", out)
		case what != "":
			fails(t, "run a set-user-ID program below "+what, "id says "+out)
		}
		_ = root.Close()
	}
	r := d.tryAs(alice, "exec", "hers", "--", "head", "-c", "8", "/disk")
	wantDenied(t, "open disk in the clone", "Permission denied", r.stderr, exitError(r))
	if got := string(mustRead(t, disk)[:6]); got != "secret" {
		t.Errorf("the disk holds %q", got)
	}

	r = d.tryAs(alice, "golden", "build", "child", "--parent=shop", "--init", d.file("more.sql", "CREATE TABLE more (i int);"))
	wantDenied(t, "build on a golden with a FIFO in place of log", "log", r.stderr, exitError(r))
	r = d.try(nil, "golden", "verify", "shop") // it reads all
	wantDenied(t, "have such a golden verified", "shop:1", r.stderr, exitError(r))
}

// goldenLayer is the directory of the one golden's layer.
func goldenLayer(t *testing.T, d *daemon) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(d.work, "root/storage/containerd/*/snapshots/*/fs/ctrsnap/pg_hba.conf"))
	if err != nil || len(found) != 1 {
		t.Fatalf("layers of goldens: %v, %v", found, err)
	}
	return filepath.Dir(filepath.Dir(found[0]))
}

func dataDirOf(t *testing.T, layer string) string {
	t.Helper()
	found, err := filepath.Glob(layer + "/var/lib/postgresql/*/PG_VERSION")
	if err != nil || len(found) != 1 {
		t.Fatalf("data directories: %v, %v", found, err)
	}
	return filepath.Dir(found[0])
}

// loopDevice is a disk of the host, by its backing file and its number.
func loopDevice(t *testing.T, d *daemon) (file string, number uint64) {
	t.Helper()
	file = d.file("disk", "secret"+strings.Repeat("\x00", 1<<20-len("secret")))
	out, err := exec.Command("losetup", "--find", "--show", file).Output()
	if err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() { _ = exec.Command("losetup", "--detach", device).Run() })
	info, err := os.Stat(device)
	do(t, err)
	return file, info.Sys().(*syscall.Stat_t).Rdev
}

func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	do(t, err)
	return path
}

func pidOf(t *testing.T, text string) int {
	t.Helper()
	var c api.Clone
	do(t, json.Unmarshal([]byte(text), &c))
	return c.PID
}

// exitError is nil for what ended well.
func exitError(r result) error {
	if r.code == 0 {
		return nil
	}
	return fmt.Errorf("exit code %d", r.code)
}

// hostileImage is an archive of an image with one entry.
func hostileImage(t *testing.T, hdr *tar.Header) string {
	t.Helper()
	content := archiveOf(t, hdr)
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil })
	do(t, err)
	img, err := mutate.AppendLayers(empty.Image, l)
	do(t, err)
	tag, err := name.NewTag("evil:1")
	do(t, err)
	var b bytes.Buffer
	do(t, tarball.Write(tag, img, &b))
	return b.String()
}

func archiveOf(t *testing.T, hdr *tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	do(t, w.WriteHeader(hdr))
	do(t, w.Close())
	return b.Bytes()
}
