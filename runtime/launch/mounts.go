package launch

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime/launch/cgroup"
)

// filesystems are the types of mounts that are made by the child, in its own
// namespaces, beside binds and cgroups.
var filesystems = []string{"proc", "sysfs", "tmpfs", "devpts", "mqueue"}

// checkMounts also wants /proc and a /dev of the container's own: what hides and
// protects paths rests on them.
func checkMounts(s *specs.Spec) error {
	var proc, dev bool
	for _, m := range s.Mounts {
		o, err := parseOptions(m.Options)
		if err != nil {
			return err
		}
		dest := destination(m)
		switch {
		case len(m.UIDMappings)+len(m.GIDMappings) > 0:
			return refuse("mounts: uidMappings")
		case dest == "/":
			return refuse("mounts: destination /")
		case isBind(m, o):
			if under(dest, "/proc") || dest == "/dev" || dest == "/dev/null" {
				return refuse("mounts: bind to " + dest)
			}
		case m.Type == "cgroup" || slices.Contains(filesystems, m.Type):
			proc = proc || dest == "/proc" && m.Type == "proc"
			dev = dev || dest == "/dev" && m.Type == "tmpfs"
			if under(dest, "/proc") && (dest != "/proc" || m.Type != "proc") || m.Type == "proc" && dest != "/proc" {
				return refuse("mounts: " + m.Type + " at " + dest)
			}
		default:
			return refuse("mounts: type " + m.Type)
		}
	}
	return first(field{"mounts: no proc at /proc", !proc}, field{"mounts: no tmpfs at /dev", !dev})
}

func destination(m specs.Mount) string { return path.Clean("/" + m.Destination) }

func isBind(m specs.Mount, o mountOptions) bool { return m.Type == "bind" || o.has(unix.MS_BIND) }

func under(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

// enterRoot appends what makes the root filesystem the root, in a mount namespace
// that is a copy of the host's. It goes by /dev, a directory that everybody may enter.
func (p *program) enterRoot(root *os.File) {
	p.add("unshare mounts", unix.SYS_MOUNT, 0, p.text("/"), 0, unix.MS_REC|unix.MS_SLAVE, 0)
	p.moveMount(root, "/dev")
	p.add("enter root filesystem", unix.SYS_FCHDIR, p.file(root))
	p.add("pivot root", unix.SYS_PIVOT_ROOT, p.text("."), p.text("."))
}

// leaveHost appends the end of the host's mounts, which lie at the working directory.
func (p *program) leaveHost() {
	p.add("unmount the host's root", unix.SYS_UMOUNT2, p.text("."), unix.MNT_DETACH)
	p.add("enter root", unix.SYS_CHDIR, p.text("/"))
}

// moveMount attaches a detached mount. Where target ends in a link, its target is
// meant; it cannot lead out of the root.
func (p *program) moveMount(f *os.File, target string) {
	p.add("mount "+f.Name()+" at "+target, unix.SYS_MOVE_MOUNT, p.file(f), p.text(""), atCwd, p.text(target),
		unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_SYMLINKS)
}

// mounts appends the mounts of a specification, and the device nodes.
func (b *builder) mounts() error {
	// In a user namespace the kernel mounts proc and sysfs only where the whole of
	// them is seen already.
	if b.ids.none() {
		b.leaveHost()
	}
	for _, m := range b.spec.Mounts {
		if err := b.mount(m); err != nil {
			return fmt.Errorf("mount %s: %w", m.Destination, err)
		}
	}
	if err := b.devices(); err != nil {
		return err
	}
	if !b.ids.none() {
		b.leaveHost()
	}
	for _, m := range b.spec.Mounts { // only now, for others may lie on them
		if o, _ := parseOptions(m.Options); m.Type == "tmpfs" && o.has(unix.MS_RDONLY) {
			b.readonly(destination(m), 0)
		}
	}
	if b.spec.Root.Readonly {
		b.readonly("/", 0)
	}
	return nil
}

func (b *builder) mount(m specs.Mount) error {
	o, err := parseOptions(m.Options)
	if err != nil {
		return err
	}
	dest := destination(m)
	switch {
	case isBind(m, o):
		return b.bind(m.Source, dest, o)
	case m.Type == "cgroup":
		return b.cgroups(dest, o)
	}
	// What other mounts and the hiding of paths rely on is no link to elsewhere.
	if dest == "/proc" || dest == "/dev" || dest == "/sys" {
		if err := b.noLink(dest); err != nil {
			return err
		}
	}
	b.mkdirAll(dest)
	if m.Type == "tmpfs" {
		b.tmpfs(dest, o)
		return nil
	}
	if m.Type == "devpts" && b.pts != nil {
		b.moveMount(b.pts, dest)
		return nil
	}
	if m.Type == "sysfs" && !b.ids.none() && b.flags&unix.CLONE_NEWNET == 0 {
		f, err := b.launcher.openSysfs(b.net, o)
		if err != nil {
			return err
		}
		b.held = append(b.held, f)
		b.moveMount(f, dest)
		return nil
	}
	b.program.mount(m.Source, dest, m.Type, o.flags, o.text())
	return nil
}

// tmpfs has the mode of the directory below it, if it is not given one.
func (b *builder) tmpfs(dest string, o mountOptions) {
	if !slices.ContainsFunc(o.data, func(s string) bool { return strings.HasPrefix(s, "mode=") }) {
		if st, err := b.stat(dest); err == nil {
			o.data = append(o.data, fmt.Sprintf("mode=%o", st.Mode&0o7777))
		}
	}
	b.program.mount("tmpfs", dest, "tmpfs", o.flags&^unix.MS_RDONLY, o.text())
}

// bind opens the source now, and attaches it in the child. A link in its path is refused: whoever may write in one of its
// directories could have anything of the host's bound.
func (b *builder) bind(source, dest string, o mountOptions) error {
	at, err := openNoLinks(source)
	if err != nil {
		return err
	}
	defer at.Close()
	f, err := cloneTree(int(fd(at)), "", source, o)
	if err != nil {
		return err
	}
	b.held = append(b.held, f)
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.IsDir() {
		b.mkdirAll(dest)
	} else {
		if dest = b.follow(dest); under(dest, "/proc") {
			return refuse("mounts: bind to " + dest)
		}
		b.mkdirAll(path.Dir(dest))
		b.add("make file "+dest, unix.SYS_MKNODAT, atCwd, b.text(dest), unix.S_IFREG|0o644, 0).ignoring(unix.EEXIST, unix.EROFS)
	}
	b.moveMount(f, dest)
	return nil
}

// cgroups shows the container its own cgroups. Version 2 has a filesystem
// that is relative to the cgroup namespace, version 1 has a bind for each hierarchy.
func (b *builder) cgroups(dest string, o mountOptions) error {
	b.mkdirAll(dest)
	if b.cgroup.Unified() {
		if b.flags&unix.CLONE_NEWCGROUP == 0 {
			return refuse("mounts: cgroup without a cgroup namespace")
		}
		b.program.mount("cgroup", dest, "cgroup2", o.flags, o.text())
		return nil
	}
	if b.flags&unix.CLONE_NEWCGROUP != 0 {
		return refuse("linux.namespaces: cgroup, on a host with version 1")
	}
	b.program.mount("tmpfs", dest, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=755")
	for name, dir := range b.cgroup.Dirs() {
		if name == cgroup.Unified {
			continue
		}
		f, err := openTree(dir, o)
		if err != nil {
			return err
		}
		b.held = append(b.held, f)
		target := filepath.Join(dest, name)
		b.mkdir(target)
		b.moveMount(f, target)
		for part := range strings.SplitSeq(name, ",") {
			if part != name {
				b.symlink(name, filepath.Join(dest, part))
			}
		}
	}
	return nil
}

// readonly makes a mount read-only and leaves its other flags.
func (p *program) readonly(target string, flags uintptr) *call {
	attr := address(p, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	return p.add("make "+target+" read-only", unix.SYS_MOUNT_SETATTR, atCwd, p.text(target), flags, attr, unix.MOUNT_ATTR_SIZE_VER0)
}

func (p *program) symlink(to, path string) {
	p.add("link "+path, unix.SYS_SYMLINKAT, p.text(to), atCwd, p.text(path)).ignoring(unix.EEXIST)
}

// protect appends what makes paths read-only and hides others, where they exist.
// A bind of /dev/null hides a file, an empty tmpfs hides a directory.
func (b *builder) protect() {
	for _, t := range b.spec.Linux.ReadonlyPaths {
		c := b.program.mount(t, t, "", unix.MS_BIND|unix.MS_REC, "")
		c.ignoring(unix.ENOENT).branch[0] = 1
		b.readonly(t, 0)
	}
	for _, t := range b.spec.Linux.MaskedPaths {
		var c *call
		if b.isDir(t) {
			c = b.program.mount("tmpfs", t, "tmpfs", unix.MS_RDONLY, "nr_blocks=1,nr_inodes=1")
		} else {
			c = b.program.mount("/dev/null", t, "", unix.MS_BIND, "")
		}
		c.ignoring(unix.ENOENT)
	}
}

// isDir says whether a path of the container is a directory: those of /proc and
// /sys are the host's. A wrong answer fails the launch; trying what it is would
// cost the child a grace period of the kernel.
func (b *builder) isDir(p string) bool {
	p = path.Clean(p)
	if under(p, "/proc") || under(p, "/sys") {
		st, err := os.Stat(p)
		return err == nil && st.IsDir()
	}
	st, err := b.stat(p)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}
