// Package rig runs a ctrsnapd of a benchmark's own: its own roots, socket, bridge and
// cgroup, beside any daemon that is there, and nothing left of it in the end.
package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

const (
	startTimeout    = 2 * time.Minute
	stopTimeout     = time.Minute
	teardownTimeout = 5 * time.Minute
)

// Rig is one daemon. Its methods are called from one goroutine; what Client
// returns and CLI are safe for concurrent use.
type Rig struct {
	bin    string // directory of ctrsnap and ctrsnapd
	work   string // everything on disk
	state  string // short: paths of unix sockets are limited to 107 bytes
	bridge string
	// storage and host are the daemon's; running says that it is not ours.
	storage, host string
	running       bool
	client        *client.Client
	cmd           *exec.Cmd
	done          chan struct{}
}

// New makes the directories of a daemon below dir, a directory on a disk. The
// programs are those in bin. The caller must Close the Rig.
func New(bin, dir string) (*Rig, error) {
	for _, program := range []string{"ctrsnap", "ctrsnapd"} {
		if _, err := exec.LookPath(filepath.Join(bin, program)); err != nil {
			return nil, fmt.Errorf("find programs: %w", err)
		}
	}
	work, err := os.MkdirTemp(dir, "ctrsnap-bench-")
	if err != nil {
		return nil, fmt.Errorf("make working directory: %w", err)
	}
	id := strings.TrimPrefix(filepath.Base(work), "ctrsnap-bench-")
	r := &Rig{bin: bin, work: work, state: "/run/csb-" + id, bridge: "csb" + id[:min(len(id), 10)]}
	r.storage, r.host = filepath.Join(work, "root", "storage"), "unix://"+filepath.Join(r.state, "ctrsnap.sock")
	// Servers that are no clones run below it, as users of their own.
	if err := os.Chmod(work, 0o711); err != nil {
		return nil, errors.Join(fmt.Errorf("open working directory: %w", err), os.RemoveAll(work))
	}
	r.client, err = client.New(r.host)
	return r, err
}

func (r *Rig) config() string { return filepath.Join(r.work, "ctrsnapd.toml") }

// Client speaks to the daemon.
func (r *Rig) Client() *client.Client { return r.client }

// Work is a directory for files of the run, not on the daemon's storage.
func (r *Rig) Work() string { return r.work }

// Storage is the directory in which the daemon keeps its snapshots.
func (r *Rig) Storage() string { return r.storage }

// State is the daemon's state directory.
func (r *Rig) State() string { return r.state }

// Config is TOML that refines the daemon's configuration. Keys outside a table
// are not possible; of the tables, containerd and network take their lines
// from the map.
type Config map[string]string

// text is the whole configuration.
func (r *Rig) text(c Config) string {
	var b strings.Builder
	fmt.Fprintf(&b, "root = %q\nstate = %q\n", filepath.Join(r.work, "root"), r.state)
	fmt.Fprintf(&b, "[containerd]\ncgroup = %q\n%s\n", "/"+filepath.Base(r.work), c["containerd"])
	fmt.Fprintf(&b, "[network]\nbridge = %q\n%s\n", r.bridge, c["network"])
	for table, lines := range c {
		if table != "containerd" && table != "network" {
			fmt.Fprintf(&b, "[%s]\n%s\n", table, lines)
		}
	}
	return b.String()
}

// Start runs the daemon and returns when it says that it is ready, by the
// protocol of sd_notify(3).
func (r *Rig) Start(ctx context.Context, c Config) error {
	if r.running {
		_, err := client.Do(ctx, r.client, api.GetVersion, api.None{})
		return err
	}
	if err := os.WriteFile(r.config(), []byte(r.text(c)), 0o600); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	notify := filepath.Join(r.work, "notify")
	_ = os.Remove(notify) // of an earlier start
	sock, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("listen for the daemon: %w", err)
	}
	defer sock.Close() //nolint:errcheck // nobody sends any more
	if err := r.spawn(notify); err != nil {
		return fmt.Errorf("start ctrsnapd: %w", err)
	}
	if err := r.awaitReady(ctx, sock); err != nil {
		return fmt.Errorf("wait for ctrsnapd: %w\n%s", err, r.LogTail())
	}
	return nil
}

func (r *Rig) spawn(notify string) error {
	log, err := os.OpenFile(r.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(r.bin, "ctrsnapd"), "--config", r.config())
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+notify)
	cmd.Stdout, cmd.Stderr = log, log
	// Signals of the terminal are for the run, which stops the daemon itself.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = cmd.Wait() }() // ends with the daemon, which Stop ends
	r.cmd, r.done = cmd, done
	return nil
}

func (r *Rig) awaitReady(ctx context.Context, sock *net.UnixConn) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, errors.New("not ready in time"))
	defer cancel()
	ready := make(chan error, 1)
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := sock.Read(b) // ends when the caller closes sock
			if err != nil || bytes.Contains(b[:n], []byte("READY=1")) {
				ready <- err
				return
			}
		}
	}()
	select {
	case err := <-ready:
		return err
	case <-r.done:
		return fmt.Errorf("it ended: %v", r.cmd.ProcessState)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Stop sends sig and waits until the daemon has ended; clones go on. A daemon
// that does not run is no error.
func (r *Rig) Stop(sig syscall.Signal) error {
	if r.cmd == nil {
		return nil
	}
	cmd, done := r.cmd, r.done
	r.cmd = nil
	_ = cmd.Process.Signal(sig) // it may have ended
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-done:
		return nil
	case <-timer.C:
		_ = cmd.Process.Kill()
		<-done
		return fmt.Errorf("stop ctrsnapd: it did not end in %v", stopTimeout)
	}
}

// Close stops the daemon, ends its clones and removes everything of it. One that
// ran already goes on.
func (r *Rig) Close(ctx context.Context) error {
	if r.running {
		return os.RemoveAll(r.work)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), teardownTimeout)
	defer cancel()
	err := r.Stop(syscall.SIGTERM)
	if _, serr := os.Stat(r.state); serr == nil {
		out, terr := exec.CommandContext(ctx, filepath.Join(r.bin, "ctrsnapd"), "teardown", "--config", r.config()).CombinedOutput()
		if terr != nil {
			// What is mounted still must not be removed.
			return errors.Join(err, fmt.Errorf("tear down ctrsnapd in %s: %w\n%s", r.work, terr, tail(out)))
		}
	}
	return errors.Join(err, os.RemoveAll(r.work), os.RemoveAll(r.state))
}

func (r *Rig) log() string { return filepath.Join(r.work, "daemon.log") }

// Logged counts the lines of the daemon's log that hold the text.
func (r *Rig) Logged(text string) int {
	b, _ := os.ReadFile(r.log()) // no log, no lines
	return bytes.Count(b, []byte(text))
}

// LogTail returns the last lines of the daemon's log.
func (r *Rig) LogTail() string {
	b, _ := os.ReadFile(r.log()) // it says what went wrong, or nothing
	return tail(b)
}

func tail(b []byte) string {
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}
