package launch

import (
	"bufio"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func restarting(script string) *specs.Spec {
	s := testSpec("sh", "-c", script)
	s.Annotations = map[string]string{Restarts: "0"}
	return s
}

// begin starts a container, and returns its output and what its lines are waited for by.
func (w *world) begin(t *testing.T, s *specs.Spec) (*Process, Config, func(want string)) {
	t.Helper()
	c := w.config(t, s)
	r, wr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	c.Stdio = Stdio{Stdout: wr, Stderr: wr}
	p, _, err := w.launcher.Create(c)
	wr.Close()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(r)
	return p, c, func(want string) {
		t.Helper()
		for {
			line, err := lines.ReadString('\n')
			if line == want+"\n" {
				return
			}
			if !strings.HasPrefix(line, "ctrsnap: ") || err != nil {
				t.Fatalf("said %q, want %s: %v", line, want, err)
			}
		}
	}
}

func (w *world) ended(t *testing.T, p *Process, code int) {
	t.Helper()
	if e, err := p.Wait(); err != nil || e.Code != code {
		t.Errorf("ended with %+v, want %d: %v", e, code, err)
	}
	p.Close()
}

// A program that ends in order begins anew, with the same user, session and filter; another end is that of the container.
func TestRestarts(t *testing.T) {
	w := newWorld(t)
	out, e := w.output(t, restarting(`echo $$ $(id -u) $(cut -d' ' -f6 /proc/$$/stat) $(grep Seccomp: /proc/$$/status) $(grep SigBlk /proc/$$/status)
		[ -e /dev/shm/ran ] && exit 3; echo x >/dev/shm/ran; exit 0`))
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if e.Code != 3 || len(lines) != 3 {
		t.Fatalf("%d: %q", e.Code, out)
	}
	for _, i := range []int{0, 2} {
		f := strings.Fields(lines[i])
		if len(f) != 7 || f[0] == "1" || f[1] != "1000" || f[2] != f[0] || f[4] != "2" || f[6] != "0000000000000000" {
			t.Errorf("run %d: %s", i, lines[i])
		}
	}
}

// One that ends at once each time does so for good.
func TestRestartsEnd(t *testing.T) {
	w := newWorld(t)
	out, e := w.output(t, restarting("echo run"))
	if n := strings.Count(out, "run\n"); e.Code != 0 || n < 2 || n > 40 {
		t.Errorf("%d, %d runs", e.Code, n)
	}
	s := testSpec("/nothing")
	s.Annotations = map[string]string{Restarts: "0"}
	p, _, err := w.launcher.Create(w.config(t, s))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err == nil || !strings.Contains(err.Error(), "/nothing") {
		t.Error(err)
	}
	w.ended(t, p, 127)
}

// Signals are the program's; who kills it ends the container.
func TestRestartsSignals(t *testing.T) {
	w := newWorld(t)
	p, _, expect := w.begin(t, restarting(`trap 'echo told; exit 0' TERM; trap 'kill -9 $$' USR1; echo up; while :; do sleep 0.01; done`))
	for range 2 {
		expect("up")
		if err := p.Signal(unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		expect("told")
	}
	expect("up")
	if err := p.Signal(unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	w.ended(t, p, 128+9)
}

// A process beside the program outlives it, and what it starts takes the program's place: as pg_ctl restart does.
func TestRestartsBySomebodyElse(t *testing.T) {
	w := newWorld(t)
	p, c, expect := w.begin(t, restarting(`trap 'exit 0' TERM; echo $$ >/dev/shm/pid; echo up; while :; do sleep 0.01; done`))
	expect("up")
	r, wr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	other := testSpec("sh", "-c", `pid=$(cat /dev/shm/pid); kill $pid; while kill -0 $pid 2>/dev/null; do sleep 0.01; done
		setsid sh -c 'trap "exit 0" TERM; echo $$ >/dev/shm/pid; while :; do sleep 0.01; done' >/dev/null 2>&1 & sleep 0.2; echo mine $(cat /dev/shm/pid); exit 5`).Process
	x, _, err := w.launcher.Exec(p, Join{ID: c.ID, Process: other, Filter: c.Filter, Cgroup: c.Cgroup, Stdio: Stdio{Stdout: wr}})
	wr.Close()
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	if err != nil || !strings.HasPrefix(string(out), "mine ") {
		t.Errorf("%q, %v", out, err)
	}
	w.ended(t, x, 5)
	if err := p.Signal(unix.SIGTERM); err != nil { // it gets there, and the program begins anew
		t.Fatal(err)
	}
	expect("up")
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.ended(t, p, 128+9)
}
