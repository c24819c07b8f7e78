package host

import (
	"bufio"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/network/kind"
	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/storage"
)

// OwnerOf returns the id of a clone, build or sandbox in a path, "" if there is none.
func OwnerOf(path string) string {
	for name := range strings.SplitSeq(path, "/") {
		name = strings.TrimSuffix(name, ".log")
		if kind.Clone.Is(name) || kind.Build.Is(name) || kind.Sandbox.Is(name) {
			return name
		}
	}
	return ""
}

// Dirs are the directories of a daemon.
type Dirs struct {
	Root    string // survives a reboot
	State   string // does not
	Storage string // the storage's, below Root or elsewhere
}

// mounts lists what is mounted for clones and builds.
func (d Dirs) mounts() ([]string, error) {
	state, err := filepath.EvalSymlinks(d.State)
	if err != nil {
		return nil, err
	}
	return mountsOf(state)
}

// mountsOf lists what is mounted below dir, which is without symbolic links, for clones and builds.
func mountsOf(dir string) (paths []string, _ error) {
	all, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	for _, m := range all {
		if OwnerOf(m.Mountpoint) != "" {
			paths = append(paths, m.Mountpoint)
		}
	}
	return paths, err
}

// loops lists loop devices whose files are below Root and that nothing uses.
func (d Dirs) loops() ([]string, error) {
	root, err := filepath.EvalSymlinks(d.Root)
	if err != nil {
		return nil, err
	}
	return storage.Loops(root)
}

// directories lists those of clones and builds, their logs, and those that a containerd in this process has of tasks.
func (d Dirs) directories(embedded bool) (paths []string, _ error) {
	globs := []string{
		filepath.Join(d.State, "clones/*"), filepath.Join(d.State, "builds/*"),
		filepath.Join(d.Storage, "spool/*"), filepath.Join(d.Storage, "logs/c*.log"),
	}
	if embedded {
		const tasks = "containerd/io.containerd.runtime.v2.task/" + snapshot.Namespace + "/*"
		globs = append(globs, filepath.Join(d.State, tasks), filepath.Join(d.Storage, tasks))
	}
	for _, glob := range globs {
		list, err := filepath.Glob(glob)
		if err != nil {
			return nil, err
		}
		paths = append(paths, slices.DeleteFunc(list, func(path string) bool { return OwnerOf(path) == "" })...)
	}
	return paths, nil
}

// deadSockets lists the sockets of shims that no process has, by proc_net(5), unix,
// and at which nobody answers: one that is bound may not listen yet, and the kernel
// can leave one out of its list while others come and go.
func (d Dirs) deadSockets() ([]string, error) {
	paths, err := filepath.Glob(filepath.Join(d.State, "containerd/s/*")) // before those that live
	if err != nil || len(paths) == 0 {
		return nil, err
	}
	f, err := os.Open("/proc/net/unix")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	alive := map[string]bool{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if i := strings.IndexByte(lines.Text(), '/'); i >= 0 {
			alive[lines.Text()[i:]] = true
		}
	}
	return slices.DeleteFunc(paths, func(p string) bool {
		fi, err := os.Lstat(p)
		return alive[p] || err != nil || fi.Mode()&fs.ModeSocket == 0 || !refuses(p)
	}), lines.Err()
}

// refuses says that nobody listens at a socket.
func refuses(path string) bool {
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		c.Close()
	}
	return errors.Is(err, unix.ECONNREFUSED)
}
