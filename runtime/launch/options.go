package launch

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// flagOptions are the mount options that are flags of mount(2), as in mount(8).
var flagOptions = map[string]struct {
	clear bool
	flag  uintptr
}{
	"defaults": {}, "async": {true, unix.MS_SYNCHRONOUS}, "sync": {false, unix.MS_SYNCHRONOUS},
	"atime": {true, unix.MS_NOATIME}, "noatime": {false, unix.MS_NOATIME},
	"dev": {true, unix.MS_NODEV}, "nodev": {false, unix.MS_NODEV},
	"diratime": {true, unix.MS_NODIRATIME}, "nodiratime": {false, unix.MS_NODIRATIME},
	"dirsync": {false, unix.MS_DIRSYNC},
	"exec":    {true, unix.MS_NOEXEC}, "noexec": {false, unix.MS_NOEXEC},
	"relatime": {false, unix.MS_RELATIME}, "norelatime": {true, unix.MS_RELATIME},
	"ro": {false, unix.MS_RDONLY}, "rw": {true, unix.MS_RDONLY},
	"strictatime": {false, unix.MS_STRICTATIME}, "nostrictatime": {true, unix.MS_STRICTATIME},
	"suid": {true, unix.MS_NOSUID}, "nosuid": {false, unix.MS_NOSUID},
	"bind": {false, unix.MS_BIND}, "rbind": {false, unix.MS_BIND | unix.MS_REC},
	"private": {}, "rprivate": {}, // what all mounts of a container are
}

// refusedOptions need more than the launcher does. Any other option is one of the filesystem.
var refusedOptions = []string{
	"idmap", "ridmap", "tmpcopyup", "remount", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable",
	"rro", "rrw", "rnosuid", "rsuid", "rnodev", "rdev", "rnoexec", "rexec", "rnoatime", "ratime", "rrelatime",
	"rnorelatime", "rstrictatime", "rnostrictatime", "rnodiratime", "rdiratime", "nosymfollow", "symfollow", "mand",
	"nomand", "iversion", "noiversion", "silent", "loud", "lazytime", "nolazytime",
}

// mountOptions are parsed options of a mount.
type mountOptions struct {
	flags uintptr
	data  []string
}

func (o mountOptions) has(flag uintptr) bool { return o.flags&flag != 0 }

func (o mountOptions) text() string { return strings.Join(o.data, ",") }

func parseOptions(list []string) (mountOptions, error) {
	var o mountOptions
	for _, s := range list {
		f, ok := flagOptions[s]
		switch {
		case slices.Contains(refusedOptions, s) || strings.HasPrefix(s, "idmap="):
			return o, refuse("mounts: option " + s)
		case !ok:
			o.data = append(o.data, s)
		case f.clear:
			o.flags &^= f.flag
		default:
			o.flags |= f.flag
		}
	}
	return o, nil
}

// attributes are the flags as mount_setattr(2) has them, for a bind. Without any
// it keeps those of its source; else it gets exactly what is asked for.
func (o mountOptions) attributes() *unix.MountAttr {
	attr := &unix.MountAttr{Propagation: unix.MS_PRIVATE}
	if o.flags&^(unix.MS_BIND|unix.MS_REC) == 0 {
		return attr
	}
	for flag, a := range map[uintptr]uint64{
		unix.MS_RDONLY: unix.MOUNT_ATTR_RDONLY, unix.MS_NOSUID: unix.MOUNT_ATTR_NOSUID,
		unix.MS_NODEV: unix.MOUNT_ATTR_NODEV, unix.MS_NOEXEC: unix.MOUNT_ATTR_NOEXEC,
		unix.MS_NODIRATIME: unix.MOUNT_ATTR_NODIRATIME,
	} {
		if o.has(flag) {
			attr.Attr_set |= a
		} else {
			attr.Attr_clr |= a
		}
	}
	switch {
	case o.has(unix.MS_NOATIME):
		attr.Attr_set |= unix.MOUNT_ATTR_NOATIME
	case o.has(unix.MS_STRICTATIME):
		attr.Attr_set |= unix.MOUNT_ATTR_STRICTATIME
	case !o.has(unix.MS_RELATIME):
		return attr
	}
	attr.Attr_clr |= unix.MOUNT_ATTR__ATIME
	return attr
}
