package manager

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// What a clone may hold in its socket directory, which lies in the host's memory and not on
// the storage. A server has a socket, a lock file and a pid file or two there.
const (
	maxRunBytes = 1 << 20
	maxRunFiles = 64
)

// held is bytes and files of a directory or a filesystem.
type held struct{ bytes, files int64 }

// runDirs stops clones that hold too much in their socket directories, and empties those of
// the stopped. All are looked at when what is held on the filesystem has grown by half of
// what one may have, and once in rescanInterval; files that are removed and kept open
// only when half of the filesystem is taken, for then the others are about to go without.
func (w *watcher) runDirs(clones []*clone) {
	var fs unix.Statfs_t
	if unix.Statfs(w.opts.RunDir, &fs) != nil {
		return // Create says what is wrong with it
	}
	now := held{bytes: int64(fs.Blocks-fs.Bfree) * fs.Bsize, files: int64(fs.Files - fs.Ffree)}
	w.run.bytes, w.run.files = min(w.run.bytes, now.bytes), min(w.run.files, now.files)
	if now.bytes-w.run.bytes < maxRunBytes/2 && now.files-w.run.files < maxRunFiles/2 && time.Since(w.runAt) < rescanInterval {
		return
	}
	w.run, w.runAt = now, time.Now()
	var hidden map[string]held
	if now.bytes > int64(fs.Blocks)*fs.Bsize/2 || now.files > int64(fs.Files)/2 {
		hidden = w.hidden() // it takes long
	}
	for _, c := range clones {
		n, err := measureRunDir(w.socketDir(c.id))
		switch {
		case err == nil && n.tooMuch() && c.isDead():
			w.runAt = time.Time{}
			if err := os.RemoveAll(w.socketDir(c.id)); err != nil {
				w.log.Warn("socket directory not emptied", "clone", c.id, "error", err)
			}
		case err == nil && n.tooMuch():
			w.runAt = time.Time{} // look again soon, to empty it
			w.overrun(c, n)
		case hidden != nil && !c.isDead():
			if n := hidden[c.pidNS()]; n.tooMuch() {
				w.overrun(c, n)
			}
		}
	}
}

func (h held) tooMuch() bool { return h.bytes > maxRunBytes || h.files > maxRunFiles }

// overrun stops a clone, once.
func (w *watcher) overrun(c *clone, n held) {
	if c.overrun {
		return
	}
	c.overrun = true
	w.halt(w.ctx, c, fmt.Sprintf("it holds at least %d KiB in %d files beside its socket, its limit is %d KiB in %d files there",
		n.bytes>>10, n.files, maxRunBytes>>10, maxRunFiles))
}

// hidden adds up files that clones have removed from their socket directories and hold open.
func (w *watcher) hidden() map[string]held {
	var st unix.Stat_t
	if unix.Stat(w.opts.RunDir, &st) != nil {
		return nil
	}
	return hiddenIn(func(string) (uint64, bool) { return st.Dev, true })
}

// measureRunDir adds up what is below a directory, until it is too much. Who has the directory
// changes it meanwhile: no link is followed, and nothing but directories opened.
func measureRunDir(path string) (held, error) {
	var sum held
	dir, err := openDirAt(unix.AT_FDCWD, path)
	if err == nil {
		err = sum.add(dir)
	}
	return sum, err
}

func openDirAt(at int, name string) (*os.File, error) {
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// add adds what is in dir, and closes it.
func (h *held) add(dir *os.File) error {
	defer dir.Close()
	names, err := dir.Readdirnames(maxRunFiles + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	for _, name := range names {
		var st unix.Stat_t
		if unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
			continue // it is gone
		}
		h.files++
		h.bytes += st.Blocks * 512
		if h.files > maxRunFiles || h.bytes > maxRunBytes {
			return nil
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		if sub, err := openDirAt(int(dir.Fd()), name); err == nil {
			_ = h.add(sub)
		}
	}
	return nil
}
