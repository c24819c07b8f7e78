package server

import (
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
)

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	gid := strconv.Itoa(os.Getgid())
	group, err := user.LookupGroupId(gid)
	if err != nil {
		t.Fatal(err)
	}
	name, want := group.Name, os.Getgid()
	if os.Getuid() == 0 { // root may give it to any group
		g, err := user.LookupGroup("daemon")
		if err != nil {
			t.Fatal(err)
		}
		name = g.Name
		want, _ = strconv.Atoi(g.Gid)
	}
	l, err := Listen(path, name, nil)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o660 || int(info.Sys().(*syscall.Stat_t).Gid) != want {
		t.Errorf("socket %v of %+v, %v", info.Mode(), info.Sys(), err)
	}
	if _, err := Listen(path, name, nil); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a socket that is served: %v", err)
	}
	l.Close()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("socket after close: %v", err)
	}

	// What a daemon leaves that was killed.
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	l, err = Listen(path, "ctrsnap-no-such-group", nil)
	if err != nil {
		t.Fatalf("a stale socket: %v", err)
	}
	l.Close()

	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path, "", nil); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a file: %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
		t.Errorf("file is %q, %v", b, err)
	}
	if _, err := Listen(filepath.Join(t.TempDir(), "no", "s"), "", nil); err == nil {
		t.Error("a directory that is not there")
	}
}
