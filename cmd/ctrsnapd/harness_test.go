package main_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/client"
)

// binDir holds the programs under test and those that they need: what `make
// test` built.
func binDir() string {
	if dir := os.Getenv("CTRSNAP_TEST_BIN"); dir != "" {
		return dir
	}
	dir, err := filepath.Abs("../../bin")
	if err != nil {
		panic(err)
	}
	return dir
}

// fromHost is the base that tests build on.
func fromHost() string {
	if prefix := os.Getenv("CTRSNAP_TEST_POSTGRES"); prefix != "" {
		return "--from-host=" + prefix
	}
	return "--from-host"
}

// daemon is a ctrsnapd with roots of its own.
type daemon struct {
	t       testing.TB
	work    string // everything on disk
	state   string // short: unix socket paths are limited to 107 bytes
	bridge  string
	args    []string
	program string   // of the daemon where that is not in binDir
	enter   []string // what runs the daemon's programs: nothing, or nsenter
	client  *client.Client

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{}
}

// newDaemon starts a daemon that the end of the test stops, tears down and
// checks for leaks.
func newDaemon(t testing.TB, configuration string, args ...string) *daemon {
	t.Helper()
	return newDaemonIn(t, nil, configuration, args...)
}

// newDaemonIn does so in another network namespace.
func newDaemonIn(t testing.TB, enter []string, configuration string, args ...string) *daemon {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	d := prepareDaemon(t, "/var/tmp", enter, configuration, args...)
	t.Cleanup(d.tearDown)
	d.start()
	return d
}

// prepareDaemon makes the directories and the configuration of a daemon below base.
func prepareDaemon(t testing.TB, base string, enter []string, configuration string, args ...string) *daemon {
	t.Helper()
	work, err := os.MkdirTemp(base, "ctrsnap-test-") //nolint:usetesting // on a disk, kept until the daemon is torn down
	if err != nil {
		t.Fatal(err)
	}
	id := filepath.Base(work)[len("ctrsnap-test-"):]
	d := &daemon{t: t, work: work, state: "/run/cst-" + id, bridge: "cst" + id[:min(len(id), 10)], args: args, enter: enter}
	containerd := fmt.Sprintf("[containerd]\ncgroup = %q\n", d.cgroup())
	text := fmt.Sprintf("root = %q\nstate = %q\n%s[network]\nbridge = %q\n", filepath.Join(work, "root"), d.state, containerd, d.bridge)
	if strings.Contains(configuration, "[containerd]\n") {
		text = strings.Replace(text, containerd, "", 1)
		configuration = strings.Replace(configuration, "[containerd]\n", containerd, 1)
	}
	if strings.Contains(configuration, "conflist") || strings.Contains(configuration, "use =") { // it replaces the bridge
		text = strings.TrimSuffix(text, fmt.Sprintf("bridge = %q\n", d.bridge))
	}
	if err := os.WriteFile(d.config(), []byte(text+configuration), 0o600); err != nil {
		t.Fatal(err)
	}
	d.client, err = client.New(d.host())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *daemon) config() string { return filepath.Join(d.work, "ctrsnapd.toml") }
func (d *daemon) host() string   { return "unix://" + filepath.Join(d.state, "ctrsnap.sock") }
func (d *daemon) cgroup() string { return "/" + filepath.Base(d.work) }
func (d *daemon) log() string    { return filepath.Join(d.work, "daemon.log") }

// start runs the daemon and waits until it says that it is ready.
func (d *daemon) start() {
	d.t.Helper()
	if err := d.launch(); err != nil {
		d.t.Fatalf("start daemon: %v\n%s", err, d.logTail())
	}
}

// launch runs the daemon with more environment and waits until it says that it
// is ready, by the protocol of sd_notify(3). An error says that it has ended.
func (d *daemon) launch(env ...string) error {
	d.t.Helper()
	notify := filepath.Join(d.work, "notify")
	os.Remove(notify)
	sock, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		d.t.Fatal(err)
	}
	defer sock.Close()
	log, err := os.OpenFile(d.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer log.Close()
	args := slices.Concat(d.enter, []string{cmp.Or(d.program, filepath.Join(binDir(), "ctrsnapd")), "--config", d.config()}, d.args)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(append(os.Environ(), "NOTIFY_SOCKET="+notify), env...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = cmd.Wait() }()
	d.mu.Lock()
	d.cmd, d.done = cmd, done
	d.mu.Unlock()

	ready := make(chan error, 1)
	go func() {
		b := make([]byte, 4096)
		_ = sock.SetReadDeadline(time.Now().Add(60 * time.Second))
		for {
			n, err := sock.Read(b)
			if err != nil || bytes.Contains(b[:n], []byte("READY=1")) {
				ready <- err
				return
			}
		}
	}()
	select {
	case err := <-ready:
		if err != nil {
			d.t.Fatalf("daemon is not ready: %v\n%s", err, d.logTail())
		}
		return nil
	case <-done:
		return fmt.Errorf("daemon ended: %v", cmd.ProcessState)
	}
}

// ended is closed when the daemon has ended.
func (d *daemon) ended() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.done
}

// stop sends sig and waits for the daemon's end.
func (d *daemon) stop(sig syscall.Signal) {
	d.t.Helper()
	d.mu.Lock()
	cmd, done := d.cmd, d.done
	d.cmd = nil
	d.mu.Unlock()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Signal(sig)
	select {
	case <-done:
	case <-time.After(60 * time.Second):
		_ = cmd.Process.Signal(syscall.SIGQUIT)
		<-done
		d.t.Errorf("daemon did not stop on %v\n%s", sig, d.logTail())
	}
}

// signal sends sig to the daemon, if it runs.
func (d *daemon) signal(sig syscall.Signal) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cmd != nil {
		_ = d.cmd.Process.Signal(sig)
	}
}

func (d *daemon) restart(sig syscall.Signal) {
	d.t.Helper()
	d.stop(sig)
	d.start()
}

func (d *daemon) logTail() string {
	b, _ := os.ReadFile(d.log())
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-40):], "\n")
}

func (d *daemon) tearDown() {
	d.tearDownOnly()
	d.checkLeaks()
	if d.t.Failed() {
		d.t.Logf("daemon log, whole in %s:\n%s", d.keepLog(), d.logTail())
	}
	if err := os.RemoveAll(d.work); err != nil {
		d.t.Error(err)
	}
	os.RemoveAll(d.state)
}

// tearDownOnly stops the daemon and leaves its goldens only.
func (d *daemon) tearDownOnly() {
	d.stop(syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	args := slices.Concat(d.enter, []string{filepath.Join(binDir(), "ctrsnapd"), "teardown", "--config", d.config()}, d.args)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	if out, err := cmd.CombinedOutput(); err != nil {
		d.t.Errorf("teardown: %v\n%s", err, out)
	}
}

// keepLog keeps the log of a daemon that has failed a test.
func (d *daemon) keepLog() string {
	path := filepath.Join(os.TempDir(), filepath.Base(d.work)+".log")
	b, _ := os.ReadFile(d.log())
	_ = os.WriteFile(path, b, 0o600)
	return path
}

// checkLeaks looks for anything of this daemon that a teardown has left.
func (d *daemon) checkLeaks() {
	for what, script := range map[string]string{
		"mounts": `grep -F -e "$WORK" -e "$STATE" /proc/self/mountinfo`,
		// One that is to go with its last user may have one elsewhere still: a mount
		// namespace that another test made meanwhile.
		"loops":       `losetup -lnO NAME,AUTOCLEAR,BACK-FILE | grep -F "$WORK" | grep -v '^[^ ]* *1 '`,
		"links":       `ip -o link | grep -F "$BRIDGE"`,
		"processes":   `pgrep -af -- "$STATE|$WORK/root"`,
		"state files": `find "$STATE" -mindepth 1`,
		"cgroups":     `ls -d /sys/fs/cgroup$CGROUP /sys/fs/cgroup/*$CGROUP`,
	} {
		look := func() []byte {
			cmd := exec.Command("sh", "-c", script)
			cmd.Env = append(os.Environ(), "WORK="+d.work, "STATE="+d.state, "BRIDGE="+d.bridge, "CGROUP="+d.cgroup())
			out, _ := cmd.Output()
			return out
		}
		// The kernel takes its time: a mount namespace of somebody else's may
		// hold a filesystem that we have unmounted.
		deadline := time.Now().Add(20 * time.Second)
		for {
			out := look()
			if len(out) == 0 {
				break
			}
			if time.Now().After(deadline) {
				d.t.Errorf("left behind: %s:\n%s", what, out)
				break
			}
			<-time.After(100 * time.Millisecond)
		}
	}
}

// result is how a command ended.
type result struct {
	stdout, stderr string
	code           int
}

// try runs the command line and returns how it ended.
func (d *daemon) try(stdin io.Reader, args ...string) result {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := d.command(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		d.t.Errorf("ctrsnap %s: %v", strings.Join(args, " "), err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// command prepares a run of the command line against this daemon.
func (d *daemon) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(binDir(), "ctrsnap"), args...)
	cmd.Env = append(os.Environ(), "CTRSNAP_HOST="+d.host(), "PATH="+binDir()+":"+os.Getenv("PATH"))
	cmd.Dir = d.work
	return cmd
}

// run runs the command line, which must end well, and returns its trimmed stdout.
func (d *daemon) run(args ...string) string {
	d.t.Helper()
	r := d.try(nil, args...)
	if r.code != 0 {
		d.t.Fatalf("ctrsnap %s: exit code %d\n%s%s", strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	return strings.TrimSpace(r.stdout)
}

// file writes a file into the daemon's working directory, which is also that
// of the command line.
func (d *daemon) file(name, content string) string {
	d.t.Helper()
	path := filepath.Join(d.work, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		d.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		d.t.Fatal(err)
	}
	return path
}
