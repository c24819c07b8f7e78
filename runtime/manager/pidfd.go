package manager

import (
	"bytes"
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// openPID returns a file that can be read once the process has ended, or nil where the kernel has none. See
// pidfd_open(2).
func openPID(pid int) *os.File {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil
	}
	return os.NewFile(uintptr(fd), "pidfd")
}

// hasEnded is isDead, but asks the kernel: word of a server's end takes its way through its shim, and a member must not
// be handed out meanwhile.
func (c *clone) hasEnded() bool {
	if c.isDead() {
		return true
	}
	if c.proc == nil {
		return false
	}
	raw, err := c.proc.SyscallConn()
	if err != nil {
		return false
	}
	ended := false
	_ = raw.Control(func(fd uintptr) { // it fails where the file is closed: nobody asks then
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, _ := unix.Poll(poll, 0)
		ended = n > 0
	})
	return ended
}

// pfEnding is PF_EXITING and PF_SIGNALED of include/linux/sched.h, sigKill the bit of SIGKILL in a set of signals.
const (
	pfEnding = 0x4 | 0x400
	sigKill  = 1 << (unix.SIGKILL - 1)
)

// isEnding says that a process is about to end, or has: killed, but still there until its children have gone, and its
// sockets may be closed. Flags and pending signals are the 9th and 31st field of proc_pid_stat(5).
func isEnding(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH)
	}
	_, rest, _ := bytes.Cut(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" "))
	fields := bytes.Fields(rest) // from the third on
	if len(fields) < 29 {
		return false
	}
	flags, _ := strconv.ParseUint(string(fields[9-3]), 10, 64)
	pending, _ := strconv.ParseUint(string(fields[31-3]), 10, 64)
	return flags&pfEnding != 0 || pending&sigKill != 0
}

// leavePool closes what only a member has open.
func (c *clone) leavePool() {
	if c.proc != nil {
		_ = c.proc.Close() // it was only watched
	}
	if c.session != nil {
		_ = c.session.Close() // all is said
	}
}
