package manager

import (
	"os"

	"golang.org/x/sys/unix"
)

// openPID returns a file that can be read once the process has ended, or nil
// where the kernel has none. See pidfd_open(2).
func openPID(pid int) *os.File {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil
	}
	return os.NewFile(uintptr(fd), "pidfd")
}

// hasEnded is isDead, but asks the kernel: word of a server's end takes its way
// through its shim, and a member must not be handed out meanwhile.
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

// leavePool closes what only a member has open.
func (c *clone) leavePool() {
	if c.proc != nil {
		_ = c.proc.Close() // it was only watched
	}
	if c.session != nil {
		_ = c.session.Close() // all is said
	}
}
