package postgres

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime"
)

// containerEnv makes this test program the first process of a container.
const containerEnv = "CTRSNAP_TEST_CONTAINER"

// container is what a container of the tests is told.
type container struct {
	Root, Socket, Source string
	Process              runtime.Process
}

func TestMain(m *testing.M) {
	if text := os.Getenv(containerEnv); text != "" {
		fmt.Fprintln(os.Stderr, enter(text))
		os.Exit(125)
	}
	code := m.Run()
	if baseDir != "" {
		os.RemoveAll(baseDir)
	}
	os.Exit(code)
}

// enter becomes the process of a container, in new namespaces.
func enter(text string) error {
	var c container
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	for _, m := range []struct {
		source, target, kind string
		flags                uintptr
	}{
		{"proc", "/proc", "proc", 0},
		{"/dev", "/dev", "", unix.MS_BIND | unix.MS_REC},
		{c.Socket, runtime.SocketDir, "", unix.MS_BIND},
		{c.Source, runtime.SourceDir, "", unix.MS_BIND},
		{"", runtime.SourceDir, "", unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY},
	} {
		target := filepath.Join(c.Root, m.target)
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.source, target, m.kind, m.flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	if err := unix.Chroot(c.Root); err != nil {
		return err
	}
	if err := unix.Chdir("/" + strings.TrimPrefix(c.Process.Cwd, "/")); err != nil {
		return err
	}
	os.Clearenv()
	for _, kv := range c.Process.Env {
		k, v, _ := strings.Cut(kv, "=")
		os.Setenv(k, v)
	}
	if err := unix.Setgroups(nil); err != nil {
		return err
	}
	if err := unix.Setresgid(int(c.Process.GID), int(c.Process.GID), int(c.Process.GID)); err != nil {
		return err
	}
	if err := unix.Setresuid(int(c.Process.UID), int(c.Process.UID), int(c.Process.UID)); err != nil {
		return err
	}
	program, err := exec.LookPath(c.Process.Args[0])
	if err != nil {
		return err
	}
	return unix.Exec(program, c.Process.Args, os.Environ())
}

// command is c as a child of this process.
func (c container) command(stdio runtime.Stdio) *exec.Cmd {
	text, _ := json.Marshal(c)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{containerEnv + "=" + string(text)}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdio.Stdin, stdio.Stdout, stdio.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID, Pdeathsig: unix.SIGKILL}
	return cmd
}
