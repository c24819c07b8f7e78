package overlay

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const firstID = 0x6fff0000

// userNamespace is one with the ids that a view needs.
func userNamespace(t *testing.T) *os.File {
	t.Helper()
	ids := []syscall.SysProcIDMap{{HostID: firstID, Size: 1 << 16}, {ContainerID: 1<<32 - 2, HostID: 0, Size: 1}}
	cmd := exec.Command("sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids, Pdeathsig: syscall.SIGKILL}
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid))
	must(t, err)
	t.Cleanup(func() { _ = ns.Close() })
	return ns
}

// TestView writes through an overlay of mapped layers, as users of the namespace and as the
// host's root: on disk all is as it would be without.
func TestView(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	root, at := filepath.Join(dir, "root"), filepath.Join(dir, "private", "layers")
	for _, d := range []string{"1/fs", "2/fs", "2/work"} {
		must(t, os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	must(t, os.WriteFile(root+"/1/fs/of5", []byte("a"), 0o600))
	must(t, os.Chown(root+"/1/fs/of5", 5, 6))
	must(t, os.WriteFile(root+"/1/fs/goes", nil, 0o600))
	must(t, os.Chown(root+"/2/fs", 7, 7))
	must(t, os.Chmod(filepath.Dir(dir), 0o711)) // for those who are not root
	ns := userNamespace(t)
	_, err := NewView(root, at, ns)
	must(t, err)
	v, err := NewView(root, at, ns) // of a process that was killed
	must(t, err)
	defer func() {
		for range 2 {
			must(t, v.Close())
		}
		if table, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(table), at) {
			t.Errorf("still mounted: %v", err)
		}
	}()
	if st := lstat(t, filepath.Dir(at)); st.Mode&0o777 != 0o700 {
		t.Errorf("users of the namespace get to the layers: mode %o", st.Mode)
	}
	var fs unix.Statfs_t
	must(t, unix.Statfs(at, &fs))
	if fs.Flags&unix.ST_NODEV == 0 || fs.Flags&unix.ST_NOSUID == 0 {
		t.Errorf("flags of the view are %x, without nodev or nosuid", fs.Flags)
	}
	mounts, err := v.Mounts([]mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{
		"index=off", "upperdir=" + root + "/2/fs", "workdir=" + root + "/2/work", "lowerdir=" + root + "/1/fs",
	}}})
	must(t, err)
	merged := filepath.Join(dir, "merged")
	must(t, os.Mkdir(merged, 0o755))
	must(t, mount.All(mounts, merged))
	defer func() { must(t, mount.UnmountAll(merged, 0)) }()
	wantOwner(t, merged+"/of5", firstID+5, firstID+6)
	f, err := os.OpenFile(merged+"/of5", os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	_, err = f.WriteString("b")
	must(t, err)
	must(t, f.Close())
	wantOwner(t, root+"/2/fs/of5", 5, 6)
	must(t, os.Remove(merged+"/goes"))
	as(t, firstID+7, func() error { return os.WriteFile(merged+"/of7", nil, 0o600) })
	wantOwner(t, root+"/2/fs/of7", 7, 0)
	if _, err := v.Mounts([]mount.Mount{{Type: "overlay", Options: []string{"lowerdir=/elsewhere"}}}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("layers elsewhere: %v", err)
	}
}

func wantOwner(t *testing.T, path string, uid, gid uint32) {
	t.Helper()
	if st := lstat(t, path); st.Uid != uid || st.Gid != gid {
		t.Errorf("%s is of %d:%d, want %d:%d", path, st.Uid, st.Gid, uid, gid)
	}
}

// as runs fn as a user of the namespace, with its root's group.
func as(t *testing.T, uid int, fn func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		must(t, unix.Setfsgid(firstID))
		must(t, unix.Setfsuid(uid))
		err := fn()
		must(t, unix.Setfsuid(0))
		must(t, unix.Setfsgid(0))
		done <- err
	}()
	must(t, <-done)
}
