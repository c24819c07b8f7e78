package patrol

import (
	"context"
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

// runDirs is what is known of the filesystem of the socket directories from earlier looks.
type runDirs struct {
	held held // on all of it, at the last look at each directory or less
	at   time.Time
}

// lookAtRunDirs stops clones that hold too much in their socket directories, and empties those
// of clones that have ended. All are looked at when what is held on the filesystem has grown by
// half of what one may have, and once in rescanInterval; deleted files that are kept open
// only when half of the filesystem is taken, for then the others are about to go without.
func (p *Patrol) lookAtRunDirs(ctx context.Context, targets []Target, deleted func() deletedFiles) {
	var fs unix.Statfs_t
	if unix.Statfs(p.opts.RunDir, &fs) != nil {
		return // who makes a clone says what is wrong with it
	}
	r := &p.runDirs
	now := held{bytes: int64(fs.Blocks-fs.Bfree) * fs.Bsize, files: int64(fs.Files - fs.Ffree)}
	r.held.bytes, r.held.files = min(r.held.bytes, now.bytes), min(r.held.files, now.files)
	if now.bytes-r.held.bytes < maxRunBytes/2 && now.files-r.held.files < maxRunFiles/2 && time.Since(r.at) < rescanInterval {
		return
	}
	r.held, r.at = now, time.Now()
	halfFull := now.bytes > int64(fs.Blocks)*fs.Bsize/2 || now.files > int64(fs.Files)/2
	for _, t := range targets {
		n, err := measureRunDir(t.SocketDir)
		switch {
		case err == nil && n.tooMuch() && t.PID == 0:
			r.at = time.Time{}
			if err := os.RemoveAll(t.SocketDir); err != nil {
				p.opts.Log.Warn("socket directory not emptied", "clone", t.ID, "error", err)
			}
		case err == nil && n.tooMuch():
			r.at = time.Time{} // look again soon, to empty it
			p.overrun(ctx, t, n)
		case halfFull && t.PID > 0:
			if n := p.deletedIn(t, deleted); n.tooMuch() {
				p.overrun(ctx, t, n)
			}
		}
	}
}

// deletedIn adds up files that a clone has deleted from its socket directory and keeps open.
func (p *Patrol) deletedIn(t Target, deleted func() deletedFiles) held {
	var st unix.Stat_t
	if unix.Stat(p.opts.RunDir, &st) != nil {
		return held{}
	}
	n, _ := deleted().on(st.Dev, t.PID)
	return n
}

func (h held) tooMuch() bool { return h.bytes > maxRunBytes || h.files > maxRunFiles }

func (p *Patrol) overrun(ctx context.Context, t Target, n held) {
	p.halt(ctx, t.ID, fmt.Sprintf("it holds at least %d KiB in %d files beside its socket, its limit is %d KiB in %d files there",
		n.bytes>>10, n.files, maxRunBytes>>10, maxRunFiles))
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
