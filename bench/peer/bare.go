package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stopTimeout is how long a server may take to end.
const stopTimeout = 30 * time.Second

// Bare is a server like a clone's, with the same program, arguments and user,
// but on a plain copy of the data: no container, no overlay, no namespace.
type Bare struct {
	Endpoint
	dir  string
	sock string // directory of the socket
	data string
	args []string
	env  []string
	cred *syscall.Credential
	log  *os.File
	cmd  *exec.Cmd
	done chan struct{}
}

// Prepare makes the copy below dir, on the golden's filesystem, and
// everything else that a server needs before it can start. sockets is a
// directory with a short path. more are further "name=value" settings. The
// caller must Close the server.
func (o Original) Prepare(dir, sockets string, login Endpoint, more ...string) (_ *Bare, err error) {
	b := &Bare{Endpoint: login, dir: dir, sock: sockets, data: filepath.Join(dir, "data"), env: o.Env}
	b.cred = &syscall.Credential{Uid: o.UID, Gid: o.GID}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("prepare bare server: %w", err), b.Close())
		}
	}()
	for _, d := range []string{dir, sockets} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.Chown(sockets, int(o.UID), int(o.GID)); err != nil {
		return nil, err
	}
	fill := o.Fill
	if fill == nil {
		fill = func(dst string) error { return Reflink(o.Golden, dst) }
	}
	if err := fill(b.data); err != nil {
		return nil, err
	}
	hba := filepath.Join(dir, "pg_hba.conf")
	if err := os.WriteFile(hba, o.HBA, 0o644); err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "postgresql.conf") // it includes the data directory's own
	if err := os.WriteFile(conf, bytes.ReplaceAll(o.Conf, []byte(o.DataDir), []byte(b.data)), 0o644); err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	b.args = o.adapt(b.data, hba, conf, sockets, port)
	for _, setting := range more {
		b.args = append(b.args, "-c", setting)
	}
	b.Socket = filepath.Join(sockets, ".s.PGSQL."+port)
	b.log, err = os.OpenFile(filepath.Join(dir, "server.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	return b, err
}

// adapt replaces what lies elsewhere than in the clone. It listens on loopback:
// the port is one that is free, since it shares the host's network.
func (o Original) adapt(data, hba, conf, sockets, port string) []string {
	replace := map[string]string{
		"hba_file": hba, "config_file": conf, "unix_socket_directories": sockets, "listen_addresses": "127.0.0.1", "port": port, "data_directory": data,
	}
	args := make([]string, len(o.Args))
	for i, a := range o.Args {
		name, _, _ := strings.Cut(a, "=")
		switch v, ok := replace[name]; {
		case a == o.DataDir:
			args[i] = data
		case ok && i > 0 && o.Args[i-1] == "-c":
			args[i] = name + "=" + v
		default:
			args[i] = a
		}
	}
	return args
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find free port: %w", err)
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port), nil
}

// Start starts the server and returns when it has answered SELECT 1. It waits
// as ctrsnap's engine does: for the word in the pid file, so that no refused
// connection slows the boot.
func (b *Bare) Start(ctx context.Context) error {
	events, err := watch(b.data)
	if err != nil {
		return fmt.Errorf("watch bare server: %w", err)
	}
	defer events.Close()
	b.cmd = exec.Command(b.args[0], b.args[1:]...)
	b.cmd.Env, b.cmd.Dir = b.env, "/"
	b.cmd.Stdout, b.cmd.Stderr = b.log, b.log
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: b.cred, Setsid: true}
	if err := b.cmd.Start(); err != nil {
		b.cmd = nil
		return fmt.Errorf("start bare server: %w", err)
	}
	b.done = make(chan struct{})
	cmd, done := b.cmd, b.done
	go func() { defer close(done); _ = cmd.Wait(); _ = events.SetReadDeadline(time.Now()) }() // Close waits for it
	if err := b.awaitReady(ctx, events); err != nil {
		return err
	}
	return b.Answer(ctx)
}

func (b *Bare) awaitReady(ctx context.Context, events *os.File) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = events.SetReadDeadline(time.Now()) })()
	buf := make([]byte, 4096)
	for !b.ready() {
		if _, err := events.Read(buf); err != nil {
			log, _ := os.ReadFile(b.log.Name()) // what it says of the reason
			return fmt.Errorf("wait for bare server: %w\n%s", errors.Join(ctx.Err(), err), log)
		}
	}
	return nil
}

// ready says that the eighth line of postmaster.pid is "ready": see
// LOCK_FILE_LINE_PM_STATUS in miscadmin.h.
func (b *Bare) ready() bool {
	text, err := os.ReadFile(filepath.Join(b.data, "postmaster.pid"))
	if err != nil {
		return false
	}
	lines := strings.Split(string(text), "\n")
	return len(lines) >= 8 && strings.TrimSpace(lines[7]) == "ready"
}

// watch returns a file that can be read when a file in dir has changed.
func watch(dir string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CLOSE_WRITE|unix.IN_MODIFY); err != nil {
		f.Close()
		return nil, os.NewSyscallError("inotify_add_watch", err)
	}
	return f, nil
}

// Stop ends the server at once, without a checkpoint, and its shared memory
// with it: SIGQUIT is PostgreSQL's immediate shutdown.
func (b *Bare) Stop() error {
	if b.cmd == nil {
		return nil
	}
	cmd := b.cmd
	b.cmd = nil
	_ = cmd.Process.Signal(syscall.SIGQUIT) // it may have ended
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-b.done:
		return nil
	case <-timer.C:
		_ = cmd.Process.Kill()
		<-b.done
		return fmt.Errorf("stop bare server: it did not end in %v", stopTimeout)
	}
}

// Close ends the server and removes its copy.
func (b *Bare) Close() error {
	err := b.Stop()
	if b.log != nil {
		b.log.Close()
	}
	return errors.Join(err, os.RemoveAll(b.dir), os.RemoveAll(b.sock))
}
