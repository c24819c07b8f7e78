package rig

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime/client"
)

// Running is a daemon that runs already.
type Running struct {
	Host  string // address of its API, as in unix:///run/ctrsnap/ctrsnap.sock
	Root  string // as configured
	State string
}

// Attach returns a Rig of a daemon that runs already: it is never stopped or
// configured. Files of the run are below dir. The caller must Close the Rig.
func Attach(bin, dir string, d Running) (*Rig, error) {
	work, err := os.MkdirTemp(dir, "ctrsnap-bench-")
	if err != nil {
		return nil, fmt.Errorf("make working directory: %w", err)
	}
	r := &Rig{bin: bin, work: work, state: d.State, storage: filepath.Join(d.Root, "storage"), host: d.Host, running: true}
	if r.client, err = client.New(d.Host); err != nil {
		_ = os.RemoveAll(work) // it is empty
		return nil, err
	}
	return r, nil
}

// Own says that the daemon is the run's own: it may be restarted, with another
// configuration.
func (r *Rig) Own() bool { return !r.running }

// PID returns the daemon's process, by its socket: see unix(7), SO_PEERCRED.
func (r *Rig) PID() (int, error) {
	conn, err := net.Dial("unix", strings.TrimPrefix(r.host, "unix://"))
	if err != nil {
		return 0, fmt.Errorf("find daemon's process: %w", err)
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("find daemon's process: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, fmt.Errorf("find daemon's process: %w", err)
	}
	if credErr != nil {
		return 0, fmt.Errorf("find daemon's process: %w", os.NewSyscallError("getsockopt", credErr))
	}
	return int(cred.Pid), nil
}
