package overlay

import (
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// MaxCopyUp is the size of the largest file that CopyUp copies, in bytes.
const MaxCopyUp = 512 << 10

// CopyUp copies files of the topmost lower layer to the upper layer, which nobody has
// mounted yet, as the kernel would when they are first opened for writing. The
// kernel shares their blocks with the lower file; then the first read of each page goes
// to the disk, though the lower file is in memory. So for what is small and read at once
// in each clone a copy of the content is faster by far.
//
// Names are paths in the filesystem. What is not a plain file in that layer, is
// too large, is reached by a link or has extended attributes is left to the kernel. An
// error leaves an upper layer that is not to be used.
func CopyUp(mounts []mount.Mount, names []string) error {
	if len(mounts) != 1 || len(names) == 0 {
		return nil
	}
	upper, ok := option(mounts[0].Options, "upperdir")
	lowers, lok := option(mounts[0].Options, "lowerdir")
	if !ok || !lok {
		return nil
	}
	lower, _, _ := strings.Cut(lowers, ":")
	c := copier{done: map[string]bool{".": true}}
	var err error
	if c.lower, err = openDir(lower); err != nil {
		return err
	}
	defer unix.Close(c.lower) //nolint:errcheck // nothing was written by it
	if c.upper, err = openDir(upper); err != nil {
		return err
	}
	defer unix.Close(c.upper) //nolint:errcheck // nothing was written by it
	return c.files(names)
}

// files copies by as many hands as there are processors for it: half of the time
// is the filesystem's transactions.
func (c *copier) files(names []string) error {
	todo := make([]string, 0, len(names))
	for _, name := range names {
		name = strings.TrimPrefix(path.Clean("/"+name), "/")
		switch err := c.dir(path.Dir(name)); {
		case err == nil:
			todo = append(todo, name)
		case !errors.Is(err, errLeave):
			return fmt.Errorf("copy up %s: %w", name, err)
		}
	}
	var g errgroup.Group
	for part := range slices.Chunk(todo, max((len(todo)+hands-1)/hands, 1)) {
		g.Go(func() error {
			var buf []byte
			for _, name := range part {
				if err := c.file(name, &buf); err != nil && !errors.Is(err, errLeave) {
					return fmt.Errorf("copy up %s: %w", name, err)
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// hands is how many copy at a time.
var hands = min(runtime.GOMAXPROCS(0), 4)

// errLeave says that a file is left to the kernel.
var errLeave = errors.New("left to the kernel")

type copier struct {
	lower, upper int
	done         map[string]bool // directories; complete before there are several hands
}

func openDir(name string) (int, error) {
	fd, err := unix.Open(name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return fd, nil
}

// open opens the file or directory that a name means without any link. Nobody changes a lower layer: what it is when it
// has been looked at, it is when it is opened.
func open(dir int, name string, flags int) (fd int, st unix.Stat_t, err error) {
	err = unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if kind := st.Mode & unix.S_IFMT; err != nil || kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return -1, st, errLeave
	}
	fd, err = unix.Openat2(dir, name, &unix.OpenHow{
		Flags:   uint64(flags | unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return -1, st, fmt.Errorf("%w: %w", errLeave, err)
	}
	err = plain(fd)
	if err == nil {
		err = unix.Fstat(fd, &st)
	}
	if err != nil {
		_ = unix.Close(fd) // it was read only
		return -1, st, err
	}
	return fd, st, nil
}

// plain returns errLeave for a file with extended attributes, but for those that
// tell overlayfs what was a lower layer's when this one was written.
func plain(fd int) error {
	var buf [512]byte
	n, err := unix.Flistxattr(fd, buf[:])
	if errors.Is(err, unix.ERANGE) {
		return errLeave
	}
	if err != nil {
		return err
	}
	for name := range strings.SplitSeq(string(buf[:n]), "\x00") {
		switch strings.TrimPrefix(name, "trusted.overlay.") {
		case "", "origin", "impure", "nlink", "uuid", "opaque":
		default:
			return errLeave
		}
	}
	return nil
}

// dir makes a directory of the upper layer, and those above it.
func (c *copier) dir(name string) error {
	if c.done[name] {
		return nil
	}
	if err := c.dir(path.Dir(name)); err != nil {
		return err
	}
	fd, st, err := open(c.lower, name, unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	_ = unix.Close(fd) // it was read only
	if err := unix.Mkdirat(c.upper, name, 0o700); err != nil {
		return err
	}
	c.done[name] = true
	to, _, err := open(c.upper, name, unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(to) //nolint:errcheck // nothing was written by it
	return own(to, &st)
}

// own gives a file the owner and mode of another.
func own(fd int, st *unix.Stat_t) error {
	if err := unix.Fchown(fd, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return unix.Fchmod(fd, st.Mode&0o7777)
}

func (c *copier) file(name string, buf *[]byte) error {
	from, st, err := open(c.lower, name, 0)
	if err != nil {
		return err
	}
	defer unix.Close(from) //nolint:errcheck // it was read only
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > MaxCopyUp {
		return errLeave
	}
	to, err := unix.Openat(c.upper, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if errors.Is(err, unix.EEXIST) { // it was named twice
		return nil
	}
	if err != nil {
		return err
	}
	err = content(from, to, int(st.Size), buf)
	if err == nil {
		err = own(to, &st)
	}
	if err == nil {
		err = unix.UtimesNanoAt(c.upper, name, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
	}
	return errors.Join(err, unix.Close(to))
}

// content copies by reading and writing: copy_file_range(2) would share the blocks.
func content(from, to, size int, buf *[]byte) error {
	if len(*buf) < size {
		*buf = make([]byte, size)
	}
	for at := 0; at < size; {
		n, err := unix.Pread(from, (*buf)[:size-at], int64(at))
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("it ends after %d of %d bytes", at, size)
		}
		for b := (*buf)[:n]; len(b) > 0; {
			n, err := unix.Write(to, b)
			if err != nil {
				return err
			}
			b, at = b[n:], at+n
		}
	}
	return nil
}
