package peer

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// Original is the server of a clone as it was started, and where its golden's
// data lie: what a bare server needs to be the same.
type Original struct {
	Args    []string
	Env     []string
	UID     uint32
	GID     uint32
	DataDir string // in the clone
	Golden  string // the golden's data directory on the host
	HBA     []byte // content of the file of access rules
	Conf    []byte // content of the file of settings, if it has one outside of the data directory
	Program string // path of the server in the clone; Args[0] is that on this host once it is located
	// Fill puts the data directory of a server beside the clone at dst; nil copies
	// Golden by reflink.
	Fill func(dst string) error
}

// Study learns from a running clone, by the first process of its container.
func Study(pid int) (o Original, err error) {
	if pid, err = serverOf(pid); err == nil {
		o, err = study(fmt.Sprintf("/proc/%d", pid))
	}
	if err != nil {
		return o, fmt.Errorf("study server %d: %w", pid, err)
	}
	return o, nil
}

// serverOf returns the server of a container whose first process is pid: that process itself, or the child of one that
// starts it anew when it ends. See proc_tid_children(5).
func serverOf(pid int) (int, error) {
	args, err := list(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || len(args) != 1 || args[0] != "ctrsnap-init" {
		return pid, err
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(children), " ")
	return strconv.Atoi(first)
}

func study(proc string) (o Original, err error) {
	if o.Args, err = list(proc + "/cmdline"); err != nil {
		return o, err
	}
	if o.Env, err = list(proc + "/environ"); err != nil {
		return o, err
	}
	if o.UID, o.GID, err = owner(proc); err != nil {
		return o, err
	}
	if o.DataDir = o.dataDir(); o.DataDir == "" || len(o.Args) == 0 {
		return o, fmt.Errorf("no data directory in %q", o.Args)
	}
	o.Program = o.Args[0]
	if hba := o.setting("hba_file"); hba != "" {
		if o.HBA, err = os.ReadFile(proc + "/root" + hba); err != nil {
			return o, err
		}
	}
	if conf := o.setting("config_file"); conf != "" {
		if o.Conf, err = os.ReadFile(proc + "/root" + conf); err != nil {
			return o, err
		}
	}
	o.Golden, err = lower(proc+"/mountinfo", o.DataDir)
	return o, err
}

// Locate finds the server's program on this host: where the clone has it, or
// below the prefix that its golden has it from.
func (o *Original) Locate(prefix string) error {
	program := o.Args[0]
	candidates := []string{program}
	if prefix != "" {
		candidates = []string{filepath.Join(prefix, "bin", filepath.Base(program)), filepath.Join(prefix, program)}
	}
	for _, path := range candidates {
		if _, err := os.Stat(path); err == nil {
			o.Args[0] = path
			return nil
		}
	}
	return fmt.Errorf("find %s on this host: none of %q", program, candidates)
}

// list reads a file of strings that each end with a zero byte.
func list(path string) ([]string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out []string
	for s := range bytes.SplitSeq(bytes.TrimRight(b, "\x00"), []byte{0}) {
		out = append(out, string(s))
	}
	return out, nil
}

// owner returns the effective user and group, as they are in the process's user namespace: see
// proc_pid_status(5).
func owner(proc string) (uid, gid uint32, err error) {
	b, err := os.ReadFile(proc + "/status")
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		switch {
		case err != nil || len(f) < 3:
		case f[0] == "Uid:":
			uid, err = inside(proc+"/uid_map", f[2])
		case f[0] == "Gid:":
			gid, err = inside(proc+"/gid_map", f[2])
		}
	}
	return uid, gid, err
}

// inside returns what an id of the host is by a map of user_namespaces(7).
func inside(path, id string) (uint32, error) {
	n, err := strconv.ParseUint(id, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		var first, host, count uint64
		if _, err := fmt.Sscan(line, &first, &host, &count); err != nil {
			return 0, fmt.Errorf("%s: %w", path, err)
		}
		if n >= host && n-host < count {
			return uint32(n - host + first), nil
		}
	}
	return 0, fmt.Errorf("%s: no %d", path, n)
}

// setting returns the value of "-c name=value".
func (o Original) setting(name string) string {
	for _, a := range o.Args {
		if v, ok := strings.CutPrefix(a, name+"="); ok {
			return v
		}
	}
	return ""
}

func (o Original) dataDir() string {
	for i, a := range o.Args {
		if a == "-D" && i+1 < len(o.Args) {
			return o.Args[i+1]
		}
	}
	return o.setting("data_directory")
}

// lower returns the directory of the topmost layer below a clone's own that
// has its data directory: the golden's.
func lower(mounts, dataDir string) (string, error) {
	f, err := os.Open(mounts)
	if err != nil {
		return "", err
	}
	defer f.Close()
	infos, err := mountinfo.GetMountsFromReader(f, mountinfo.SingleEntryFilter("/"))
	if err != nil {
		return "", err
	}
	for _, info := range infos {
		for _, layer := range layers(info.VFSOptions) {
			if layer, err = onDisk(layer); err != nil {
				return "", err
			}
			dir := filepath.Join(layer, dataDir)
			if _, err := os.Stat(filepath.Join(dir, "PG_VERSION")); err == nil {
				return dir, nil
			}
		}
	}
	return "", errors.New("no layer of its root filesystem holds its data directory")
}

// onDisk returns where path is by the mount that its own is a part of: a clone in a user
// namespace has its layers by one that changes their owners.
func onDisk(path string) (string, error) {
	infos, err := mountinfo.GetMounts(mountinfo.ParentsFilter(path))
	if err != nil || len(infos) == 0 {
		return path, err
	}
	at := slices.MaxFunc(infos, func(a, b *mountinfo.Info) int { return len(a.Mountpoint) - len(b.Mountpoint) })
	whole, err := mountinfo.GetMounts(func(i *mountinfo.Info) (bool, bool) {
		root := strings.TrimSuffix(i.Root, "/") + "/"
		return i.Major != at.Major || i.Minor != at.Minor || !strings.HasPrefix(at.Root, root) || root == at.Root+"/", false
	})
	if err != nil || len(whole) == 0 {
		return path, err
	}
	part := strings.TrimPrefix(at.Root, whole[0].Root)
	return filepath.Join(whole[0].Mountpoint, part, strings.TrimPrefix(path, at.Mountpoint)), nil
}

// layers returns the lower directories among the options of an overlay mount,
// topmost first.
func layers(options string) []string {
	var dirs []string
	for o := range strings.SplitSeq(options, ",") {
		if v, ok := strings.CutPrefix(o, "lowerdir="); ok {
			dirs = append(dirs, strings.Split(v, ":")...)
		} else if v, ok := strings.CutPrefix(o, "lowerdir+="); ok {
			dirs = append(dirs, v)
		}
	}
	return dirs
}
