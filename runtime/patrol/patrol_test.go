package patrol

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const mib = 1 << 20

// world is clones and a storage in memory. It is a Keeper, and the deleted files.
type world struct {
	mu       sync.Mutex
	targets  []Target
	space    Space
	broken   error            // of the storage
	disk     map[string]int64 // what their layers show
	hidden   map[int]int64    // bytes that are deleted and open, by PID
	looks    map[string]int   // at the disk, by id
	used     map[string]Usage // as we were told
	answers  []string         // what we were told of clones, as "halt a"
	why      map[string]string
	full     []string
	open     int // files, of each clone
	listings int
	builds   int    // under way
	ended    string // why they were told to end
}

func newWorld(ids ...string) *world {
	w := &world{
		space: Space{Size: 200 << 30, Free: 100 << 30, Reserve: 10 << 30},
		disk:  map[string]int64{}, hidden: map[int]int64{}, looks: map[string]int{}, used: map[string]Usage{}, why: map[string]string{},
	}
	for i, id := range ids {
		w.targets = append(w.targets, Target{ID: id, PID: 1<<30 + i}) // numbers that no process has
	}
	return w
}

// change runs fn while nobody looks.
func (w *world) change(fn func()) { w.mu.Lock(); defer w.mu.Unlock(); fn() }

// write has a clone take more of the storage.
func (w *world) write(id string, layer, hidden int64) {
	w.change(func() {
		w.disk[id] += layer
		w.hidden[w.target(id).PID] += hidden
		w.space.Free -= layer + hidden
	})
}

func (w *world) target(id string) *Target {
	i := slices.IndexFunc(w.targets, func(t Target) bool { return t.ID == id })
	return &w.targets[i]
}

func (w *world) Targets() []Target { w.mu.Lock(); defer w.mu.Unlock(); return slices.Clone(w.targets) }

func (w *world) Memory(context.Context, string) (int64, error) { return 5 * mib, nil }

func (w *world) Disk(_ context.Context, id string) (int64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.looks[id]++
	return w.disk[id], nil
}

func (w *world) Measured(id string, u Usage) { w.change(func() { w.used[id] = u }) }

func (w *world) Halt(_ context.Context, id, why string) {
	w.answer("halt", id, why)
	w.change(func() { w.target(id).PID = 0 })
}
func (w *world) Expiring(id, why string) { w.answer("expiring", id, why) }
func (w *world) Expire(id, why string)   { w.answer("expire", id, why) }
func (w *world) Full(err error)          { w.change(func() { w.full = append(w.full, fmt.Sprint(err)) }) }

func (w *world) endBuilds(why error) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = fmt.Sprint(why)
	return w.builds
}

func (w *world) answer(what, id, why string) {
	w.change(func() { w.answers, w.why[id] = append(w.answers, what+" "+id), why })
}

func (w *world) answered() string { w.mu.Lock(); defer w.mu.Unlock(); return fmt.Sprint(w.answers) }

func (w *world) reason(id string) string { w.mu.Lock(); defer w.mu.Unlock(); return w.why[id] }

func (w *world) lookedAt(id string) int { w.mu.Lock(); defer w.mu.Unlock(); return w.looks[id] }

func (w *world) onRoot(pid int) (held, int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return held{bytes: w.hidden[pid]}, w.open
}

// patrolled runs a Patrol of w in fake time.
func patrolled(t *testing.T, w *world, test func(t *testing.T, p *Patrol)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := New(Options{Keeper: w, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Space: func() (Space, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.space, w.broken
		}, EndBuilds: w.endBuilds})
		p.deleted = func() deletedFiles { w.change(func() { w.listings++ }); return w }
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { p.Run(ctx) })
		test(t, p)
		cancel()
		wg.Wait()
	})
}

func after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// TestDisk stops the clone that holds more than its limit, within a look, and measures nobody
// while nothing is written.
func TestDisk(t *testing.T) {
	w := newWorld("a", "b", "c")
	w.target("a").Disk, w.target("b").Disk = 1<<30, 1<<30
	patrolled(t, w, func(t *testing.T, p *Patrol) {
		after(rescanInterval + interval)
		before := w.lookedAt("a")
		after(rescanInterval - 2*interval)
		if w.lookedAt("a") != before || w.listings > 3 {
			t.Errorf("measured %d times, processes listed %d times though nothing was written", w.lookedAt("a")-before, w.listings)
		}
		w.write("a", 2<<30, 0)
		w.write("c", 9<<30, 0)
		after(interval)
		if got := w.answered(); got != "[halt a]" || w.reason("a") != "it holds 2048 MiB of disk, its limit is 1024 MiB" {
			t.Errorf("%s: %s", got, w.reason("a"))
		}
		after(rescanInterval)
		if got := w.answered(); got != "[halt a]" {
			t.Errorf("then: %s", got)
		}
		if want := (Usage{5 * mib, 9 << 30}); w.used["c"] != want || p.Used("c") != want {
			t.Errorf("c uses %+v, %+v, want %+v", w.used["c"], p.Used("c"), want)
		}
		w.change(func() { w.targets = w.targets[1:] })
		after(interval)
		if p.Used("a") != (Usage{}) || len(p.seen) != 2 {
			t.Errorf("kept of one that is gone: %+v", p.seen)
		}
	})
}

// TestDeletedFiles: what a clone has deleted and keeps open counts within a look, however soon
// after another look it was written, and whoever has written meanwhile.
func TestDeletedFiles(t *testing.T) {
	for delay := time.Duration(0); delay < 3*time.Second; delay += 50 * time.Millisecond {
		w := newWorld("hider", "other")
		w.target("hider").Disk, w.target("other").Disk = 48*mib, 1<<30
		patrolled(t, w, func(t *testing.T, p *Patrol) {
			after(time.Minute)
			w.write("other", 100*mib, 0) // all are measured
			after(delay)
			w.write("hider", 0, 80*mib)
			after(interval)
			if got := w.answered(); got != "[halt hider]" || w.reason("hider") != "it holds 80 MiB of disk, its limit is 48 MiB" {
				t.Errorf("%s after another look: %s %s", delay, got, w.reason("hider"))
			}
		})
	}
}

// TestManyFiles: a clone that has very many files open is looked at for a twentieth of the time,
// and is due until it was looked at.
func TestManyFiles(t *testing.T) {
	w := newWorld("hider")
	w.target("hider").Disk, w.open = 1<<30, 2000000
	patrolled(t, w, func(t *testing.T, p *Patrol) {
		after(time.Minute)
		w.write("hider", 600*mib, 0)
		after(2 * time.Second)
		before := w.lookedAt("hider")
		w.write("hider", 0, 2<<30)
		after(17 * time.Second)
		if n := w.lookedAt("hider") - before; n > 0 {
			t.Errorf("%d looks", n)
		}
		after(2 * time.Second)
		if got := w.answered(); got != "[halt hider]" {
			t.Errorf("%s", got)
		}
	})
}

// TestBuildsEndFirst: no clone is stopped as long as builds are there that can end.
func TestBuildsEndFirst(t *testing.T) {
	w := newWorld("large")
	w.disk = map[string]int64{"large": 30 << 30}
	w.builds = 1
	patrolled(t, w, func(t *testing.T, _ *Patrol) {
		after(time.Minute)
		if w.ended != "" {
			t.Errorf("builds end: %s", w.ended)
		}
		w.change(func() { w.space.Free = 9 << 30 })
		after(interval)
		if !strings.HasPrefix(w.ended, "storage is full") {
			t.Errorf("builds do not end: %q", w.ended)
		}
		w.change(func() { w.space.Free = 4 << 30 })
		after(buildsEnd / 2)
		if got := w.answered(); got != "[]" {
			t.Errorf("while a build ends: %s", got)
		}
		w.change(func() { w.space.Free, w.builds = 9<<30, 0 })
		after(buildsEnd)
		if got := w.answered(); got != "[]" {
			t.Errorf("after it has ended: %s", got)
		}
		w.change(func() { w.space.Free, w.builds = 4<<30, 1 })
		after(2 * buildsEnd)
		if got := w.answered(); got != "[halt large]" {
			t.Errorf("beside a build that does not end: %s", got)
		}
	})
}

// TestStorage: below the reserve nothing is made, below half of it whoever holds most is
// stopped, and the next one only when half of what was left is gone, too.
func TestStorage(t *testing.T) {
	w := newWorld("small", "large", "larger")
	w.disk = map[string]int64{"small": mib, "large": 30 << 30, "larger": 40 << 30}
	free := func(n int64) { w.change(func() { w.space.Free = n }); after(interval) }
	patrolled(t, w, func(t *testing.T, p *Patrol) {
		after(time.Minute)
		if err := p.Room(); err != nil {
			t.Error(err)
		}
		free(9 << 30)
		if err := p.Room(); !errdefs.IsResourceExhausted(err) {
			t.Errorf("room: %v", err)
		}
		free(10<<30 + 1)
		if p.Room() == nil {
			t.Error("it goes to and fro")
		}
		free(4 << 30)
		free(3 << 30)
		if got := w.answered(); got != "[halt larger]" || !strings.Contains(w.reason("larger"), "4096 MiB are free, and it held most of all, 40960 MiB") {
			t.Errorf("%s: %s", got, w.reason("larger"))
		}
		free(1 << 30)
		free(400 << 20) // none is left that holds anything
		if got := w.answered(); got != "[halt larger halt large]" {
			t.Errorf("then: %s", got)
		}
		free(50 << 30)
		if err := p.Room(); err != nil || len(w.full) != 2 || !strings.HasPrefix(w.full[0], "storage is full: 9216 MiB free, 10240 MiB are to stay so") || w.full[1] != "<nil>" {
			t.Errorf("%v, told %q", err, w.full)
		}
		w.change(func() { w.broken = errors.New("a moment") })
		after(interval)
		if err := p.Room(); err != nil {
			t.Error(err)
		}
		w.change(func() { w.broken = unix.EIO })
		after(interval)
		if err := p.Room(); !errors.Is(err, unix.EIO) {
			t.Errorf("room on a storage that has stopped: %v", err)
		}
		w.change(func() { w.broken = nil })
		after(interval)
		if err := p.Room(); err != nil {
			t.Error(err)
		}
	})
}

// TestIdle: a clone that nobody uses ends after its idle time, with a warning before, unless it
// is protected.
func TestIdle(t *testing.T) {
	w := newWorld("idle", "kept", "other")
	for _, id := range []string{"idle", "kept"} {
		cmd := exec.Command("sleep", "600") // a server that nobody is connected to: the host's connections are not its own
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		*w.target(id) = Target{ID: id, PID: cmd.Process.Pid, IdleTTL: 10 * time.Minute, Warning: time.Minute, Protected: id == "kept"}
	}
	patrolled(t, w, func(t *testing.T, p *Patrol) {
		after(8*time.Minute + 50*time.Second)
		if got := w.answered(); got != "[]" {
			t.Errorf("too early: %s", got)
		}
		after(time.Minute)
		if got := w.answered(); got != "[expiring idle]" || !strings.HasPrefix(w.reason("idle"), "nobody is connected: it ends in ") {
			t.Errorf("warned: %s %s", got, w.reason("idle"))
		}
		after(15 * time.Second)
		if got := w.answered(); !strings.HasPrefix(got, "[expiring idle expire idle") || w.reason("idle") != "nobody was connected for 10m0s" {
			t.Errorf("then: %s %s", got, w.reason("idle"))
		}
	})
}

func TestTCPCounters(t *testing.T) {
	const snmp = "Ip: Forwarding\nIp: 1\nTcp: RtoMin ActiveOpens PassiveOpens CurrEstab\nTcp: 200 1 7 3\n"
	if opened, open := tcpCounters([]byte(snmp)); opened != 7 || open != 3 {
		t.Errorf("%d %d", opened, open)
	}
	if a := activityOf(os.Getpid()); a.tasks < 1 {
		t.Errorf("this process has %d tasks", a.tasks)
	}
}

// TestMain is the process that TestProcesses looks at, too: it has a file of 1 MiB open twice and
// one of 2 MiB mapped, both deleted, and one open that is not.
func TestMain(m *testing.M) {
	if os.Getenv("PATROL_TEST_HOLD") == "" {
		os.Exit(m.Run())
	}
	var keep []*os.File
	for name, size := range map[string]int{"open": mib, "mapped": 2 * mib, "kept": 3 * mib} {
		f, err := os.Create(name)
		if err == nil {
			_, err = f.Write(make([]byte, size))
		}
		keep = append(keep, f)
		if err == nil && name == "open" {
			_, err = unix.Dup(int(f.Fd()))
		}
		if err == nil && name == "mapped" {
			if _, err = unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED); err == nil {
				err = f.Close()
			}
		}
		if err == nil && name != "kept" {
			err = os.Remove(name)
		}
		if err != nil {
			panic(err)
		}
	}
	fmt.Println("ready")
	_, _ = os.Stdin.Read(make([]byte, 1)) // until the test ends
	runtime.KeepAlive(keep)
}

// TestProcesses finds what a process in another PID namespace has deleted and holds, once, and
// nothing of others.
func TestProcesses(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: a PID namespace")
	}
	dir := t.TempDir()
	cmd := exec.Command("unshare", "--pid", "--fork", "--kill-child", os.Args[0])
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "PATROL_TEST_HOLD=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if _, err := io.ReadFull(out, make([]byte, len("ready"))); err != nil {
		t.Fatal(err)
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
	if err != nil {
		t.Skip(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(children)))
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		t.Fatal(err)
	}
	if got, looked := findDeleted().(processes).on(st.Dev, pid); got != (held{bytes: 3 * mib, files: 2}) || looked < 10 {
		t.Errorf("it holds %+v, of %d open files", got, looked)
	}
	if got, _ := findDeleted().(processes).on(st.Dev+1, pid); got != (held{}) {
		t.Errorf("on another filesystem it holds %+v", got)
	}
	if got, _ := findDeleted().(processes).on(st.Dev, os.Getpid()); got != (held{}) {
		t.Errorf("we hold %+v", got)
	}
}
