package storage

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

const mib = 1 << 20

// steps are the failpoints of an Open that makes an image.
var steps = []string{"mkfs", "rename", "attach", "mount", "grow"}

// testOptions returns options below a directory that cannot reflink, and at
// the end of the test looks for what is left.
func testOptions(t *testing.T) Options {
	t.Helper()
	needRoot(t)
	root := t.TempDir()
	if ok, err := probe(root); err != nil || ok {
		t.Skipf("needs a temporary directory on a filesystem without reflinks (%v)", err)
	}
	opts := Options{
		Dir: filepath.Join(root, "storage"), Image: filepath.Join(root, "storage.xfs"), Size: 512 * mib,
	}
	t.Cleanup(func() { checkLeaks(t, opts) })
	return opts
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
}

func mustOpen(t *testing.T, opts Options) *Storage {
	t.Helper()
	s, err := Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Unmount(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return s
}

// checkLeaks fails if a mount, a loop device or a temporary file is left. It
// unmounts what it finds, so that one failure does not hide others.
func checkLeaks(t *testing.T, opts Options) {
	t.Helper()
	ms, err := mountinfo.GetMounts(mountinfo.PrefixFilter(filepath.Dir(opts.Dir)))
	if err != nil {
		t.Error(err)
	}
	for _, m := range ms {
		t.Errorf("mount left: %s on %s", m.Source, m.Mountpoint)
		_ = unix.Unmount(m.Mountpoint, unix.MNT_DETACH)
	}
	if devs := loopDevices(t, opts.Image); len(devs) > 0 {
		t.Errorf("loop devices left: %v", devs)
	}
	if exists(opts.Image + ".part") {
		t.Error("temporary image left")
	}
}

// loopDevices lists the devices that have image, once those that the kernel is
// about to clear are gone.
func loopDevices(t *testing.T, image string) []string {
	t.Helper()
	var found []string
	for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); {
		found = nil
		files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
		for _, f := range files {
			if b, _ := os.ReadFile(f); strings.HasPrefix(string(b), image) {
				found = append(found, f)
			}
		}
		if len(found) == 0 {
			break
		}
	}
	return found
}

func mustInfo(t *testing.T, s *Storage) Info {
	t.Helper()
	i, err := s.Info()
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func writeRandom(t *testing.T, path string, size int) []byte {
	t.Helper()
	b := make([]byte, size)
	_, _ = rand.Read(b)
	if err := os.WriteFile(path, b, 0o640); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestOpenMakesAndMountsImage(t *testing.T) {
	opts := testOptions(t)
	s := mustOpen(t, opts)
	i := mustInfo(t, s)
	if i.Filesystem != "xfs" || !i.Reflink || i.Warning != "" || i.Image != opts.Image {
		t.Errorf("info %+v", i)
	}
	if i.ImageSize != opts.Size || i.ImageUsed >= i.ImageSize/2 || i.HostFree == 0 {
		t.Errorf("image of %d bytes takes %d: %+v", i.ImageSize, i.ImageUsed, i)
	}
	if ok, err := probe(s.Dir()); err != nil || !ok {
		t.Errorf("no reflinks in the mounted image: %v", err)
	}
	for _, c := range s.Checks() {
		if c.Name == "storage" && (c.Status != StatusOK || !strings.Contains(c.Detail, i.LoopDevice)) {
			t.Errorf("check %+v", c)
		}
	}
}

func TestOpenAdoptsMount(t *testing.T) {
	opts := testOptions(t)
	first := mustOpen(t, opts)
	second := mustOpen(t, opts)
	if a, b := mustInfo(t, first).LoopDevice, mustInfo(t, second).LoopDevice; a != b || a == "" {
		t.Errorf("loop devices %q and %q", a, b)
	}
	if n := len(loopFiles(opts.Image)); n != 1 {
		t.Errorf("%d loop devices on the image", n)
	}
}

func loopFiles(image string) (found []string) {
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, f := range files {
		if b, _ := os.ReadFile(f); strings.TrimSpace(string(b)) == image {
			found = append(found, f)
		}
	}
	return found
}

func TestOpenThroughSymlink(t *testing.T) {
	opts := testOptions(t)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(filepath.Dir(opts.Dir), link); err != nil {
		t.Fatal(err)
	}
	want := opts.Dir
	opts.Dir = filepath.Join(link, "storage")
	mustOpen(t, opts)
	if s := mustOpen(t, opts); s.Dir() != want {
		t.Errorf("directory %s, want %s", s.Dir(), want)
	}
	opts.Dir = want
}

func TestUnmountKeepsData(t *testing.T) {
	opts := testOptions(t)
	s := mustOpen(t, opts)
	want := writeRandom(t, filepath.Join(s.Dir(), "f"), mib)
	f, err := os.Open(filepath.Join(s.Dir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	hurry, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Unmount(hurry); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("unmount while in use: %v", err)
	}
	// Who uses it may be about to end.
	time.AfterFunc(50*time.Millisecond, func() { _ = f.Close() })
	for range 2 {
		if err := s.Unmount(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if devs := loopDevices(t, opts.Image); len(devs) > 0 {
		t.Errorf("loop devices left: %v", devs)
	}
	if i := mustInfo(t, s); i.Reflink || i.Warning == "" {
		t.Errorf("info of an unmounted storage: %+v", i)
	}
	s = mustOpen(t, opts)
	got, err := os.ReadFile(filepath.Join(s.Dir(), "f"))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("file after remount: %v", err)
	}
}

// TestHeldElsewhere: a mount that somebody else keeps does not keep us from mounting again.
func TestHeldElsewhere(t *testing.T) {
	opts := testOptions(t)
	s := mustOpen(t, opts)
	elsewhere := t.TempDir()
	if err := unix.Mount(s.Dir(), elsewhere, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(elsewhere, unix.MNT_DETACH) }()
	if err := s.Unmount(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, opts)
	if err := os.WriteFile(filepath.Join(opts.Dir, "file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(elsewhere, "file")); err != nil {
		t.Errorf("it is another filesystem: %v", err)
	}
}

func TestOpenFailsCleanlyAtEachStep(t *testing.T) {
	boom := errors.New("boom")
	for _, step := range steps {
		t.Run(step, func(t *testing.T) {
			opts := testOptions(t)
			bad := opts
			bad.Failpoint = func(s string) error {
				if s == step {
					return boom
				}
				return nil
			}
			if _, err := Open(t.Context(), bad); !errors.Is(err, boom) {
				t.Fatalf("open: %v", err)
			}
			checkLeaks(t, opts)
			if exists(opts.Image) {
				t.Error("an image is left that nobody has used")
			}
			mustOpen(t, opts)
		})
	}
}

func TestCrashAtEachStep(t *testing.T) {
	for _, step := range steps {
		t.Run(step, func(t *testing.T) {
			opts := testOptions(t)
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCrashChild$")
			cmd.Env = append(os.Environ(), "CRASH_STEP="+step, "CRASH_DIR="+opts.Dir, "CRASH_IMAGE="+opts.Image)
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("child: %v\n%s", err, out)
			}
			mounted, err := mountinfo.Mounted(opts.Dir)
			if err != nil {
				t.Fatal(err)
			}
			if devs := loopDevices(t, opts.Image); !mounted && len(devs) > 0 {
				t.Errorf("loop devices left: %v", devs)
			}
			if i := mustInfo(t, mustOpen(t, opts)); !i.Reflink {
				t.Errorf("info after restart: %+v", i)
			}
		})
	}
}

// TestCrashChild is the process that TestCrashAtEachStep kills.
func TestCrashChild(t *testing.T) {
	step := os.Getenv("CRASH_STEP")
	if step == "" {
		t.Skip("only runs as the child of TestCrashAtEachStep")
	}
	_, err := Open(t.Context(), Options{
		Dir: os.Getenv("CRASH_DIR"), Image: os.Getenv("CRASH_IMAGE"), Size: 512 * mib,
		Failpoint: func(s string) error {
			if s == step {
				return syscall.Kill(os.Getpid(), syscall.SIGKILL)
			}
			return nil
		},
	})
	t.Fatalf("survived: %v", err)
}

func TestOpenCanceled(t *testing.T) {
	opts := testOptions(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, opts); !errors.Is(err, context.Canceled) {
		t.Errorf("open: %v", err)
	}
}

func TestOpenLocked(t *testing.T) {
	opts := testOptions(t)
	unlock, err := lock(opts.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), opts); !errdefs.IsUnavailable(err) {
		t.Errorf("open while locked: %v", err)
	}
	unlock()
	mustOpen(t, opts)
}

func TestDamagedImageIsNotReplaced(t *testing.T) {
	opts := testOptions(t)
	opts.AllowPlain = true
	if err := makeSparse(opts.Image, opts.Size); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), opts); err == nil {
		t.Error("opened an image without a filesystem")
	}
	if !exists(opts.Image) {
		t.Error("the image is gone")
	}
}

func TestFilesAreNotMountedOver(t *testing.T) {
	opts := testOptions(t)
	if err := os.MkdirAll(opts.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	writeRandom(t, filepath.Join(opts.Dir, "golden"), 10)
	if _, err := Open(t.Context(), opts); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("open: %v", err)
	}
	opts.AllowPlain = true
	s := mustOpen(t, opts)
	if i := mustInfo(t, s); i.Reflink || i.Warning == "" || exists(opts.Image) {
		t.Errorf("info %+v", i)
	}
	if !exists(filepath.Join(s.Dir(), "golden")) {
		t.Error("the file is hidden")
	}
}

func TestWithoutMkfs(t *testing.T) {
	opts := testOptions(t)
	opts.Mkfs = filepath.Join(t.TempDir(), "mkfs.xfs")
	_, err := Open(t.Context(), opts)
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(hintOf(err), "xfsprogs") {
		t.Errorf("open: %v, hint %q", err, hintOf(err))
	}
	opts.AllowPlain = true
	s := mustOpen(t, opts)
	if i := mustInfo(t, s); i.Reflink || !strings.Contains(i.Warning, "xfsprogs") {
		t.Errorf("info %+v", i)
	}
	if c := s.Checks()[0]; c.Status != StatusWarning || c.Fix == "" || c.Why == "" {
		t.Errorf("check %+v", c)
	}
}

// TestReflinkFilesystemIsUsedAsIs opens a storage inside another one.
func TestReflinkFilesystemIsUsedAsIs(t *testing.T) {
	outer := mustOpen(t, testOptions(t))
	s := mustOpen(t, Options{Dir: filepath.Join(outer.Dir(), "inner"), Image: filepath.Join(outer.Dir(), "unused.xfs")})
	if i := mustInfo(t, s); !i.Reflink || i.Image != "" || i.Filesystem != "xfs" || exists(filepath.Join(outer.Dir(), "unused.xfs")) {
		t.Errorf("info %+v", i)
	}
	if _, err := s.Trim(); err != nil {
		t.Error(err)
	}
	if err := s.Grow(t.Context(), 1<<40); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("grow: %v", err)
	}
}

func TestBadOptions(t *testing.T) {
	for name, opts := range map[string]Options{
		"relative": {Dir: "storage"},
		"negative": {Dir: "/nonexistent", Size: -1},
		"small":    {Dir: "/nonexistent", Size: MinSize - 1},
	} {
		if _, err := Open(t.Context(), opts); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSizeFor(t *testing.T) {
	const gib = 1 << 30
	for free, want := range map[int64]int64{100 * gib: 80 * gib, 5 * gib: 3 * gib, 10*gib + 7: 8 * gib} {
		if got := sizeFor(free); got != want {
			t.Errorf("sizeFor(%d) = %d, want %d", free, got, want)
		}
	}
	if sizeFor(2*gib) >= MinSize {
		t.Error("a full disk gets an image")
	}
}
