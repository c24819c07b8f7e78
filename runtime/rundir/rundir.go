// Package rundir keeps the directories in which servers make their sockets.
//
// DIR/ID is root's, so nobody renames what is in it, and it is reached by its path without any link. One user may pass
// through it, by an access control list; nobody else but root gets in. DIR/ID/s is the server's: a filesystem in memory, of its
// own, with room for sockets and little else. A server that fills it does so for itself.
package rundir

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// options are of a server's filesystem, see tmpfs(5): a server has a socket, a lock file and a pid file or two there.
const options = "size=1m,nr_inodes=64"

// Memory mounts filesystems in memory, and unmounts them. It is no error if there is nothing to unmount.
type Memory interface {
	Mount(dir, options string) error
	Unmount(dir string) error
}

// Dirs are the directories below Path, one for each id. It is safe for concurrent use, but for one id.
type Dirs struct {
	Path   string
	Memory Memory // nil is the kernel's
}

// Dir returns the directory of an id.
func (d Dirs) Dir(id string) string { return filepath.Join(d.Path, id) }

// Sockets returns that in which the server makes its socket.
func (d Dirs) Sockets(id string) string { return filepath.Join(d.Dir(id), "s") }

// Open makes Path. Everybody may pass through it.
func (d Dirs) Open() error {
	err := os.MkdirAll(d.Path, 0o711)
	if err == nil {
		err = os.Chmod(d.Path, 0o711) // past the umask
	}
	if err != nil {
		return fmt.Errorf("make run directory: %w", err)
	}
	return nil
}

// Make makes both directories. Nobody but root gets in, and the server has neither. What is there already is an error; after
// any other the caller calls Remove.
func (d Dirs) Make(id string) error {
	err := os.Mkdir(d.Dir(id), 0o700)
	if err == nil {
		err = os.Mkdir(d.Sockets(id), 0o700)
	}
	if err == nil {
		err = d.memory().Mount(d.Sockets(id), options)
	}
	if err == nil {
		err = os.Chmod(d.Sockets(id), 0o711) // others connect to what they know by name
	}
	if err != nil {
		return fmt.Errorf("make socket directory: %w", err)
	}
	return nil
}

// Admit lets a user of the host pass through the directory of an id, in place of the one who was let in before, and takes it
// away from a user to whom an earlier release has given it.
func (d Dirs) Admit(id string, uid int) error {
	err := os.Lchown(d.Dir(id), os.Geteuid(), -1)
	if err == nil && uid != os.Geteuid() {
		err = unix.Lsetxattr(d.Dir(id), "system.posix_acl_access", acl(uint32(uid)), 0)
	}
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = snapshot.WithHint(fmt.Errorf("access control lists on %s: %w: %w", d.Path, err, errdefs.ErrFailedPrecondition),
			"the kernel needs CONFIG_TMPFS_POSIX_ACL, or the run directory another filesystem")
	}
	if err != nil {
		return fmt.Errorf("let user %d into run directory: %w", uid, err)
	}
	return nil
}

// Remove removes what is there of an id. It is idempotent.
func (d Dirs) Remove(id string) error {
	if err := d.memory().Unmount(d.Sockets(id)); err != nil { // what is below a mount that stays is not touched
		return fmt.Errorf("remove socket directory: %w", err)
	}
	return os.RemoveAll(d.Dir(id))
}

// IDs lists the ids of which there is anything.
func (d Dirs) IDs() ([]string, error) {
	entries, err := os.ReadDir(d.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	ids := make([]string, len(entries))
	for i, e := range entries {
		ids[i] = e.Name()
	}
	return ids, err
}

func (d Dirs) memory() Memory {
	if d.Memory == nil {
		return kernel{}
	}
	return d.Memory
}

type kernel struct{}

func (kernel) Mount(dir, options string) error {
	err := unix.Mount("ctrsnap", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options)
	if err != nil {
		return &os.PathError{Op: "mount tmpfs at", Path: dir, Err: err}
	}
	return nil
}

func (kernel) Unmount(dir string) error {
	err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return &os.PathError{Op: "unmount", Path: dir, Err: err}
}

// acl is a list as the kernel has it (linux/posix_acl_xattr.h): all for the owner, passage for one user, nothing for anybody
// else. See acl(5).
func acl(uid uint32) []byte {
	const (
		version                              = 2
		userObj, user, groupObj, mask, other = 0x01, 0x02, 0x04, 0x10, 0x20
		none                                 = ^uint32(0)
	)
	b := binary.LittleEndian.AppendUint32(nil, version)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{userObj, 7, none}, {user, 1, uid}, {groupObj, 0, none}, {mask, 1, none}, {other, 0, none}} {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}
