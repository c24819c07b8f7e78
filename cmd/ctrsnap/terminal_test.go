package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// countSignals is a program that prints each SIGINT and ends with SIGUSR1.
func countSignals() {
	ch := make(chan os.Signal, 16)
	signal.Notify(ch, syscall.SIGINT, syscall.SIGUSR1)
	fmt.Println("up")
	for s := range ch {
		if s == syscall.SIGUSR1 {
			fmt.Println("end")
			return
		}
		fmt.Println("got INT")
	}
}

// terminal is a pseudo terminal with a program in its foreground.
type terminal struct {
	*os.File
	cmd   *exec.Cmd
	lines *bufio.Reader
}

// onTerminal starts ctrsnap on a terminal of its own.
func onTerminal(t *testing.T, env []string, args ...string) *terminal {
	t.Helper()
	f := newFakeDaemon(t, shortDir(t))
	t.Cleanup(f.stop)
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 60}); err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	cmd := exec.Command("ctrsnap", args...)
	cmd.Env = append(append(os.Environ(), "CTRSNAP_HOST="+f.host(), "CI=", "NO_COLOR=", "TERM=xterm"), env...)
	cmd.Dir = f.dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	watchdog := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
	t.Cleanup(func() { watchdog.Stop() })
	return &terminal{master, cmd, bufio.NewReader(master)}
}

// until reads lines up to one that contains s, and returns all of them.
func (x *terminal) until(t *testing.T, s string) string {
	t.Helper()
	var all strings.Builder
	for {
		line, err := x.lines.ReadString('\n')
		all.WriteString(line)
		if strings.Contains(line, s) {
			return all.String()
		}
		if err != nil {
			t.Fatalf("no %q in %q: %v", s, all.String(), err)
		}
	}
}

func (x *terminal) rest() string {
	b, _ := io.ReadAll(x.lines) // EIO when the last program has closed the terminal
	_ = x.cmd.Wait()
	return string(b)
}

func TestInterruptKeyReachesCommandOnce(t *testing.T) {
	for range 5 {
		x := onTerminal(t, nil, "run", "shop", "--", "count-signals")
		x.until(t, "up")
		if _, err := x.Write([]byte{3}); err != nil { // ^C
			t.Fatal(err)
		}
		out := x.until(t, "got INT")
		// Signals are passed on in their order: after this one, a second
		// SIGINT would have arrived.
		if err := x.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		out += x.rest()
		if n := strings.Count(out, "got INT"); n != 1 {
			t.Fatalf("the command got SIGINT %d times: %q", n, out)
		}
		if code := x.cmd.ProcessState.ExitCode(); code != 0 {
			t.Fatalf("exit code %d, want the command's", code)
		}
	}
}

func TestProgressOnTerminal(t *testing.T) {
	for _, tt := range []struct {
		env  string
		bars bool
	}{{"X=", true}, {"CI=true", false}, {"NO_COLOR=1", false}} {
		t.Run(tt.env, func(t *testing.T) {
			out := onTerminal(t, []string{tt.env}, "golden", "build", "new", "--exec", "echo hello").rest()
			if got := strings.Contains(out, "[============            ]  50%"); got != tt.bars {
				t.Errorf("bars: %v, want %v: %q", got, tt.bars, out)
			}
			if !strings.Contains(out, "hello\r\n") || !strings.HasSuffix(out, "new:1\r\n") {
				t.Errorf("output of the command, or result, is missing: %q", out)
			}
		})
	}
}

func TestExecOnTerminal(t *testing.T) {
	out := onTerminal(t, nil, "run", "shop", "--", "sh", "-c", `exec ctrsnap exec "$CTRSNAP_CLONE_ID" -- sh -c 'echo terminal=$TERMINAL; exit 4'`)
	got := out.rest()
	if !strings.Contains(got, "terminal=true\n") || out.cmd.ProcessState.ExitCode() != 4 {
		t.Errorf("exit code %d: %q", out.cmd.ProcessState.ExitCode(), got)
	}
}

// TestNohup: a signal that was ignored stays so for the command.
func TestNohup(t *testing.T) {
	f := newFakeDaemon(t, shortDir(t))
	t.Cleanup(f.stop)
	cmd := exec.Command("sh", "-c", `trap "" HUP; exec ctrsnap run shop -- grep SigIgn /proc/self/status`)
	cmd.Env = append(os.Environ(), "CTRSNAP_HOST="+f.host())
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	mask, err := strconv.ParseUint(strings.TrimSpace(strings.TrimPrefix(string(out), "SigIgn:")), 16, 64)
	if err != nil || mask&(1<<(syscall.SIGHUP-1)) == 0 {
		t.Errorf("SIGHUP is not ignored: %s", out)
	}
}

// TestRmAllAsks: a person says whether clones of running jobs go.
func TestRmAllAsks(t *testing.T) {
	for answer, gone := range map[string]bool{"y": true, "yes": true, "": false, "n": false} {
		x := onTerminal(t, nil, "run", "shop", "--", "sh", "-c", "ctrsnap rm --all")
		if _, err := x.Write([]byte(answer + "\n")); err != nil {
			t.Fatal(err)
		}
		out := x.rest()
		if !strings.Contains(out, "remove all clones: 1, 1 of them of running jobs") || strings.HasSuffix(out, "c1\r\n") != gone {
			t.Errorf("%q: %q", answer, out)
		}
	}
}
