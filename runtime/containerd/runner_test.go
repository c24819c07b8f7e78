package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/snapshot/containerd/containerdtest"
)

func TestRunner(t *testing.T) {
	h := newHost(t)
	containerdtest.Serve(t, h.dir)
	r := h.runner(t)
	for name, test := range map[string]func(*testing.T, *host, *Runner){
		"exit codes":       testExit,
		"isolation":        testIsolation,
		"root":             testRoot,
		"logs":             testLogs,
		"exec":             testExec,
		"exec terminal":    testTerminal,
		"exec killed":      testExecKilled,
		"background child": testBackgroundChild,
		"slow reader":      testSlowReader,
		"records":          testRecords,
		"create fails":     testCreateFails,
		"dead shim":        testDeadShim,
		"record only":      testRecordOnly,
		"memory":           testMemory,
	} {
		t.Run(name, func(t *testing.T) {
			t.Cleanup(func() { // after the deletion of the test's containers
				if infos, err := r.Containers(context.Background(), nil); err != nil || len(infos) > 0 {
					t.Errorf("containers left: %v, %v", infos, err)
				}
			})
			test(t, h, r)
		})
	}
}

func testExit(t *testing.T, h *host, r *Runner) {
	code, out, errs := run(t, r, h.container("exit3", "cat; echo oops >&2; exit 3"), "hello\n")
	if code != 3 || out != "hello\n" || errs != "oops\n" {
		t.Errorf("got %d, %q, %q", code, out, errs)
	}
	task, exits := start(t, r, h.container("killed", "sleep 100"))
	if err := task.Signal(t.Context(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e := await(t, exits); e.Code != 128+9 || e.Err != nil || time.Since(e.At).Abs() > time.Minute {
		t.Errorf("killed: got %+v", e)
	}
	if _, err := r.Load(t.Context(), "killed"); !errdefs.IsNotFound(err) {
		t.Errorf("load of what has ended: %v", err)
	}
	if err := task.Signal(t.Context(), syscall.SIGTERM); !errdefs.IsNotFound(err) {
		t.Errorf("signal to what has ended: %v", err)
	}
}

// status returns fields of /proc/self/status as cat in the container has them.
func status(t *testing.T, out string) map[string]string {
	t.Helper()
	fields := map[string]string{}
	for line := range strings.Lines(out) {
		k, v, _ := strings.Cut(line, ":")
		fields[k] = strings.TrimSpace(v)
	}
	return fields
}

func testIsolation(t *testing.T, h *host, r *Runner) {
	script := "cat /proc/self/status; echo host: $(cat /proc/sys/kernel/hostname); echo net: $(grep -c : /proc/net/dev); " +
		"echo shm: $(grep -c size= /proc/mounts); echo kcore: $(head -c1 /proc/kcore | grep -c .); " +
		"echo x >/proc/sys/kernel/domainname || echo ro: yes; ls /sys/class/net"
	_, out, _ := run(t, r, h.container("isolation", script), "")
	got := status(t, out)
	for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		if got[set] != "0000000000000000" {
			t.Errorf("%s: %s", set, got[set])
		}
	}
	for k, want := range map[string]string{
		"NoNewPrivs": "1", "Seccomp": "2", "Uid": "1000\t1000\t1000\t1000", "Gid": "1000\t1000\t1000\t1000",
		"host": "inside", "net": "1", "kcore": "0", "ro": "yes", "Groups": "1000",
	} {
		if got[k] != want && (k != "Groups" || got[k] != "") {
			t.Errorf("%s: got %q, want %q", k, got[k], want)
		}
	}
	if shm := mountOptions(t, h, r, "/dev/shm"); strings.Contains(shm, "size=") {
		t.Errorf("/dev/shm has a size: %s", shm)
	}
}

func mountOptions(t *testing.T, h *host, r *Runner, target string) string {
	t.Helper()
	_, out, _ := run(t, r, h.container("mounts", "cat /proc/mounts"), "")
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); f[1] == target {
			return f[3]
		}
	}
	t.Fatalf("no mount at %s: %s", target, out)
	return ""
}

func testRoot(t *testing.T, h *host, r *Runner) {
	c := h.container("root", "cat /proc/self/status")
	c.Process.UID, c.Process.GID = 0, 0
	_, out, _ := run(t, r, c, "")
	got := status(t, out)
	const defaults = "00000000a00425fb" // containerd's default set without CAP_MKNOD
	if got["CapEff"] != defaults || got["CapBnd"] != defaults || got["NoNewPrivs"] != "1" || got["Seccomp"] != "2" {
		t.Errorf("got %v", got)
	}
}

func testLogs(t *testing.T, h *host, r *Runner) {
	c := h.container("logs", "echo one; echo two >&2")
	c.LogPath = filepath.Join(h.dir, "logs.log")
	_, exits := start(t, r, c)
	await(t, exits)
	eventually(t, "log", func() error {
		got, err := os.ReadFile(c.LogPath)
		if err == nil && !bytes.Contains(got, []byte("one\n")) || !bytes.Contains(got, []byte("two\n")) {
			err = fmt.Errorf("got %q", got)
		}
		return err
	})
}

func testExec(t *testing.T, h *host, r *Runner) {
	task, _ := start(t, r, h.container("exec", "sleep 100"))
	var out, errs bytes.Buffer
	code, err := task.Exec(t.Context(), shell("cat; id -u; echo no >&2; exit 7"),
		runtime.Stdio{Stdin: strings.NewReader("in\n"), Stdout: &out, Stderr: &errs}, nil)
	if err != nil || code != 7 || out.String() != "in\n1000\n" || errs.String() != "no\n" {
		t.Errorf("got %d, %v, %q, %q", code, err, out.String(), errs.String())
	}
	for program, want := range map[string]int{"nothing": 127, "/bin/data": 126, "/bin": 126} {
		errs.Reset()
		code, err := task.Exec(t.Context(), runtime.Process{Args: []string{program}, Env: []string{"PATH=/bin"}, UID: 1},
			runtime.Stdio{Stderr: &errs}, nil)
		if err != nil || code != want || !strings.Contains(errs.String(), program) {
			t.Errorf("%s: got %d, %v, %q, want code %d", program, code, err, errs.String(), want)
		}
	}
	if code, err := task.Exec(t.Context(), shell("exit 5"), runtime.Stdio{}, nil); code != 5 || err != nil {
		t.Errorf("without streams: got %d, %v", code, err)
	}
}

func testTerminal(t *testing.T, h *host, r *Runner) {
	task, _ := start(t, r, h.container("tty", "sleep 100"))
	size := make(chan runtime.WindowSize, 1)
	size <- runtime.WindowSize{Rows: 33, Cols: 99}
	stdin, line := io.Pipe()
	defer line.Close()
	go io.WriteString(line, "line\n") // and no end, which would hang up
	var out bytes.Buffer
	p := shell("until [ \"$(stty size)\" = '33 99' ]; do sleep 0.01; done; stty size; read x; echo got $x")
	p.Terminal = true
	code, err := task.Exec(t.Context(), p, runtime.Stdio{Stdin: stdin, Stdout: &out}, size)
	if err != nil || code != 0 || !strings.Contains(out.String(), "33 99\r\n") || !strings.Contains(out.String(), "got line\r\n") {
		t.Errorf("got %d, %v, %q", code, err, out.String())
	}
}

func testExecKilled(t *testing.T, h *host, r *Runner) {
	task, _ := start(t, r, h.container("execkill", "sleep 100"))
	ctx, cancel := context.WithCancel(t.Context())
	out := &trigger{on: "up\n", do: cancel}
	if _, err := task.Exec(ctx, shell("echo up; exec sleep 99"), runtime.Stdio{Stdout: out}, nil); err == nil {
		t.Error("no error")
	}
	var ps bytes.Buffer
	script := "for f in /proc/[0-9]*/cmdline; do cat $f; echo; done"
	if _, err := task.Exec(t.Context(), shell(script), runtime.Stdio{Stdout: &ps}, nil); err != nil || strings.Contains(ps.String(), "sleep\x0099") {
		t.Errorf("it lives on: %q, %v", ps.String(), err)
	}
}

// trigger is a writer that calls do when it has got all of on.
type trigger struct {
	bytes.Buffer
	on string
	do func()
}

func (w *trigger) Write(p []byte) (int, error) {
	n, err := w.Buffer.Write(p)
	if strings.Contains(w.String(), w.on) {
		w.do()
	}
	return n, err
}

// A child that holds the output open does not hold up the exec for ever.
func testBackgroundChild(t *testing.T, h *host, r *Runner) {
	task, _ := start(t, r, h.container("background", "sleep 100"))
	var out bytes.Buffer
	begun := time.Now()
	code, err := task.Exec(t.Context(), shell("echo done; sleep 60 & exit 4"), runtime.Stdio{Stdout: &out}, nil)
	if err != nil || code != 4 || out.String() != "done\n" || time.Since(begun) > 5*time.Second {
		t.Errorf("got %d, %v, %q after %s", code, err, out.String(), time.Since(begun))
	}
}

// Whoever reads slowly gets everything.
func testSlowReader(t *testing.T, h *host, r *Runner) {
	task, _ := start(t, r, h.container("slow", "sleep 100"))
	w := &slowWriter{delay: time.After(3 * h.options.drainPeriod)}
	code, err := task.Exec(t.Context(), shell("head -c 100000 /dev/zero"), runtime.Stdio{Stdout: w}, nil)
	if err != nil || code != 0 || w.n != 100000 {
		t.Errorf("got %d, %v, %d bytes", code, err, w.n)
	}
}

type slowWriter struct {
	delay <-chan time.Time
	n     int
}

func (w *slowWriter) Write(p []byte) (int, error) {
	if w.delay != nil {
		<-w.delay
		w.delay = nil
	}
	w.n += len(p)
	return len(p), nil
}

func testRecords(t *testing.T, h *host, r *Runner) {
	c := h.container("records", "sleep 100")
	c.Record = []byte(`{"a":1}`)
	c.Labels = map[string]string{"ctrsnap.io/kind": "clone", "odd": `a"b,c`}
	start(t, r, c)
	for _, labels := range []map[string]string{nil, {"ctrsnap.io/kind": "clone"}, c.Labels} {
		got, err := r.Containers(t.Context(), labels)
		want := []runtime.ContainerInfo{{ID: "records", Labels: c.Labels, Record: c.Record}}
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("by %v: %v, %s", labels, err, diff)
		}
	}
	if got, err := r.Containers(t.Context(), map[string]string{"ctrsnap.io/kind": "build"}); err != nil || len(got) > 0 {
		t.Errorf("by another label: %v, %v", got, err)
	}
	if err := r.SetRecord(t.Context(), "records", []byte("new")); err != nil {
		t.Fatal(err)
	}
	got, err := r.Containers(t.Context(), c.Labels)
	if err != nil || len(got) != 1 || string(got[0].Record) != "new" {
		t.Errorf("after SetRecord: %v, %v", got, err)
	}
	left := filepath.Join(h.options.RecordDir, "records.new")
	if err := os.WriteFile(left, []byte("cut"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := r.RemoveRecords(t.Context()); n != 1 || err != nil {
		t.Errorf("removed %d records, %v; want what was being written", n, err)
	}
	if got, err := r.Containers(t.Context(), c.Labels); err != nil || len(got) != 1 || string(got[0].Record) != "new" {
		t.Errorf("after RemoveRecords: %v, %v", got, err)
	}
	if err := r.SetRecord(t.Context(), "nothing", nil); !errdefs.IsNotFound(err) {
		t.Errorf("SetRecord of nothing: %v", err)
	}
	if _, err := r.Load(t.Context(), "nothing"); !errdefs.IsNotFound(err) {
		t.Errorf("Load of nothing: %v", err)
	}
	if err := r.Delete(t.Context(), "nothing"); err != nil {
		t.Errorf("Delete of nothing: %v", err)
	}
	if _, err := r.Create(t.Context(), c); !errdefs.IsAlreadyExists(err) {
		t.Errorf("Create of what exists: %v", err)
	}
	if _, err := r.Load(t.Context(), "records"); err != nil {
		t.Errorf("Create of what exists has harmed it: %v", err)
	}
}

func testCreateFails(t *testing.T, h *host, r *Runner) {
	c := h.container("fails", "true")
	c.NetNS = "/nowhere"
	if _, err := r.Create(t.Context(), c); err == nil {
		t.Error("no error for a namespace that is not there")
	}
	c = h.container("fails", "true")
	c.Rootfs = func(context.Context) ([]mount.Mount, error) {
		return []mount.Mount{{Type: "bind", Source: "/nowhere", Options: []string{"rbind", "rw"}}}, nil
	}
	c.Stdio = &runtime.Stdio{Stdin: strings.NewReader("x"), Stdout: &bytes.Buffer{}}
	if _, err := r.Create(t.Context(), c); err == nil {
		t.Error("no error for a root filesystem that is not there")
	}
	c = h.container("fails", "true")
	late := errors.New("no snapshot")
	c.Rootfs = func(context.Context) ([]mount.Mount, error) { return nil, late }
	if _, err := r.Create(t.Context(), c); !errors.Is(err, late) {
		t.Errorf("got %v, want %v", err, late)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := r.Create(ctx, h.container("fails", "true")); err == nil {
		t.Error("no error for a caller that left")
	}
	c = h.container("fails", "true")
	c.Process.Args = []string{"/nothing"}
	task, err := r.Create(t.Context(), c)
	if err == nil {
		err = task.Start(t.Context())
	}
	if err == nil || !strings.Contains(err.Error(), "/nothing") {
		t.Errorf("for a program that is not there: %v", err)
	}
	if err := r.Delete(t.Context(), "fails"); err != nil {
		t.Error(err)
	}
}

func shimOf(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	ppid, err := strconv.Atoi(strings.Fields(string(b))[3])
	if err != nil {
		t.Fatal(err)
	}
	return ppid
}

// A shim that is killed takes its container along, and Delete copes.
func testDeadShim(t *testing.T, h *host, r *Runner) {
	task, exits := start(t, r, h.container("deadshim", "sleep 100"))
	pid := task.PID()
	if err := syscall.Kill(shimOf(t, pid), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e := await(t, exits); e.Err == nil {
		t.Errorf("wait through a dead shim: %+v", e)
	}
	if err := r.Delete(t.Context(), "deadshim"); err != nil {
		t.Error(err)
	}
	eventually(t, "process", func() error {
		if err := syscall.Kill(pid, 0); err == nil {
			return fmt.Errorf("%d lives on", pid)
		}
		return nil
	})
}

// A process that was killed between record and task leaves a record.
func testRecordOnly(t *testing.T, h *host, r *Runner) {
	c := h.container("half", "true")
	rec, err := r.record(c, r.spec(c), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.client.ContainerService().Create(withNamespace(t.Context()), rec); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Load(t.Context(), "half"); !errdefs.IsNotFound(err) {
		t.Errorf("load: %v", err)
	}
	cgroups := r.cgroup
	orphan := exec.Command("sleep", "100")
	if err := orphan.Start(); err != nil {
		t.Fatal(err)
	}
	cg := filepath.Join("/sys/fs/cgroup/pids", path.Join(h.options.CgroupPath, "half"))
	if cgroups.unified {
		cg = filepath.Join("/sys/fs/cgroup", path.Join(h.options.CgroupPath, "half"))
	}
	if err := os.MkdirAll(cg, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cg, "cgroup.procs"), []byte(strconv.Itoa(orphan.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	waited := make(chan error, 1)
	go func() { waited <- orphan.Wait() }()
	if err := r.Delete(t.Context(), "half"); err != nil {
		t.Error(err)
	}
	if err := <-waited; err == nil {
		t.Error("the orphan was not killed")
	}
}

func testMemory(t *testing.T, h *host, r *Runner) {
	task, _ := start(t, r, h.container("memory", "head -c 20000000 /dev/zero >/dev/shm/x; sleep 100"))
	eventually(t, "memory", func() error {
		n, err := task.Memory(t.Context())
		if err == nil && (n < 20_000_000 || n > 40_000_000) {
			err = fmt.Errorf("%d bytes", n)
		}
		return err
	})
}
