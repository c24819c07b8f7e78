package publish

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
)

// answerTimeout bounds how long the proxy may take for an answer.
const answerTimeout = 10 * time.Second

// client is a connection to the proxy. It is for one goroutine at a time.
type client struct{ conn *net.UnixConn }

// connect takes up the proxy that an earlier process has started, or starts one.
func connect(dir, program string) (*client, error) {
	at := &net.UnixAddr{Net: "unixpacket", Name: filepath.Join(dir, "proxy.sock")}
	if c, err := net.DialUnix(at.Net, nil, at); err == nil {
		return &client{c}, nil
	}
	return start(dir, program, at)
}

// start runs a proxy. This process connects first: if it dies then, the proxy
// sees it leave, and ends.
func start(dir, program string, at *net.UnixAddr) (*client, error) {
	if program == "" {
		return nil, fmt.Errorf("start ctrsnap-proxy: not found beside ctrsnapd, in ../libexec/ctrsnap or on PATH: %w", errdefs.ErrFailedPrecondition)
	}
	_ = os.Remove(at.Name)
	l, err := net.ListenUnix(at.Net, at)
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	defer l.Close() //nolint:errcheck // the proxy has its own
	conn, err := net.DialUnix(at.Net, nil, at)
	if err != nil {
		return nil, err
	}
	if err := spawn(program, l, filepath.Join(dir, "proxy.log")); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", program, err), conn.Close())
	}
	return &client{conn}, nil
}

// spawn runs the proxy in a session of its own, with what it listens on as file
// descriptor 3.
func spawn(program string, l *net.UnixListener, logPath string) error {
	control, err := l.File()
	if err != nil {
		return err
	}
	defer control.Close()
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(program, filepath.Dir(logPath)) // for ps: it reads no arguments
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = "/", log, log, []*os.File{control}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // it is told from its connection that it has ended
	return nil
}

// call sends a request and returns the answer.
func (c *client) call(req request, listeners ...*net.TCPListener) (r reply, err error) {
	if err := c.conn.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return r, err
	}
	if err := send(c.conn, req, listeners...); err != nil {
		return r, fmt.Errorf("ask proxy: %w", err)
	}
	if _, err := receive(c.conn, &r); err != nil {
		return r, fmt.Errorf("ask proxy: %w", err)
	}
	if r.Error != "" {
		return r, fmt.Errorf("proxy: %s: %w", r.Error, errdefs.ErrInternal)
	}
	return r, nil
}

func (c *client) add(id string, to netip.AddrPort, listeners []*net.TCPListener) error {
	_, err := c.call(request{Op: opAdd, ID: id, To: to}, listeners...)
	return err
}

func (c *client) remove(id string) error {
	_, err := c.call(request{Op: opRemove, ID: id})
	return err
}

func (c *client) list() ([]string, error) {
	r, err := c.call(request{Op: opList})
	return r.IDs, err
}

// watch returns when the proxy has ended, by a connection that nobody speaks on.
func watch(conn *net.UnixConn) {
	_, _ = conn.Read(make([]byte, 1))
}
