package postgres

import (
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime/engine/rootfs"
	"github.com/ctrsnap/ctrsnap/snapshot/foreign"
)

// watch is told by inotify(7) what happens in directories.
type watch struct {
	fd  int
	f   *os.File
	buf [4096]byte
}

// event is what happened to a file of a directory, by the number of add.
type event struct {
	dir  int32
	name string
}

func newWatch() (*watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	return &watch{fd: fd, f: os.NewFile(uintptr(fd), "inotify")}, nil
}

// add watches a directory and returns its number.
func (w *watch) add(root *rootfs.Root, dir string, mask uint32) (int32, error) {
	d, err := root.Handle(dir)
	if err != nil {
		return 0, err
	}
	defer d.Close()
	wd, err := unix.InotifyAddWatch(w.fd, foreign.Path(d), mask|unix.IN_ONLYDIR)
	return int32(wd), os.NewSyscallError("inotify_add_watch", err)
}

// read waits for events.
func (w *watch) read() (events []event, err error) {
	n, err := w.f.Read(w.buf[:])
	for b := w.buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
		e := (*unix.InotifyEvent)(unsafe.Pointer(&b[0]))
		end := unix.SizeofInotifyEvent + e.Len
		events = append(events, event{e.Wd, unix.ByteSliceToString(b[unix.SizeofInotifyEvent:end])})
		b = b[end:]
	}
	return events, err
}

// stop ends read.
func (w *watch) stop() { _ = w.f.SetReadDeadline(time.Now()) }

// close does not wait: the kernel takes some 20 ms for it, a grace period of its
// marks (synchronize_srcu).
func (w *watch) close() { go w.f.Close() }
