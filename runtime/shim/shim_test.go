package shim

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime/launch"
	"github.com/ctrsnap/ctrsnap/runtime/shim/sandboxes"
	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/containerd/containerdtest"
	"github.com/ctrsnap/ctrsnap/snapshot/overlay"
)

const runcRuntime = "io.containerd.runc.v2"

// TestMain makes this program be a probe or a containerd where it is started as one.
func TestMain(m *testing.M) {
	if os.Args[0] == probePath {
		if err := probe(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	containerdtest.Main()
	os.Exit(m.Run())
}

// host is a containerd with both runtimes, and a pool of our sandboxes.
type host struct {
	dir, rootfs string
	client      *client.Client
	pool        *sandboxes.Pool
	ctx         context.Context
	view        *overlay.View // see mapped
}

func newHost(t testing.TB) *host {
	t.Helper()
	h := prepare(t)
	c, err := client.New(containerdtest.Serve(t, h.dir), client.WithDefaultNamespace(snapshot.Namespace))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	h.client = c
	h.pool = sandboxes.New(c.SandboxStore(), c.SandboxController("shim"), sandboxes.Options{Most: 8})
	t.Cleanup(func() {
		if err := h.pool.Drain(h.ctx); err != nil {
			t.Error(err)
		}
		h.pool.Close()
	})
	return h
}

// prepare is newHost without a containerd.
func prepare(t testing.TB) *host {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir, err := os.MkdirTemp("", "cs") //nolint:usetesting // t.TempDir is too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if os.Getenv("CTRSNAP_TEST_BIN") == "" {
		bin, err := filepath.Abs("../../bin")
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv("CTRSNAP_TEST_BIN", bin)
	}
	h := &host{dir: dir, rootfs: filepath.Join(dir, "rootfs")}
	must(t, os.Chmod(dir, 0o711)) // runc enters it as the root of a user namespace
	t.Cleanup(func() {
		if h.view != nil {
			must(t, h.view.Close())
		}
	})
	h.ctx = namespaces.WithNamespace(context.WithoutCancel(t.Context()), snapshot.Namespace)
	makeRootfs(t, h.rootfs)
	t.Cleanup(func() { // the containers' cgroups are gone by then
		for _, dir := range h.cgroups() {
			if err := os.Remove(dir); err != nil {
				t.Errorf("cgroup left: %v", err)
			}
		}
	})
	return h
}

// cgroups are the directories above those of the containers.
func (h *host) cgroups() []string {
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*/" + filepath.Base(h.dir))
	return dirs
}

// makeRootfs makes a root filesystem with sh, sleep and cat, and what this program needs.
func makeRootfs(t testing.TB, dir string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "sleep", "cat", "true", self} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		if path != self {
			copyFile(t, path, filepath.Join(dir, "bin", name))
		}
		out, _ := exec.Command("ldd", path).Output() // fails for a static program
		for word := range strings.FieldsSeq(string(out)) {
			if filepath.IsAbs(word) {
				copyFile(t, word, filepath.Join(dir, word))
			}
		}
	}
	for name, text := range map[string]string{"probe": "", "etc/passwd": "u:x:999:999::/home/u:/bin/sh\n"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(to), 0o755)
	}
	if err == nil {
		err = os.WriteFile(to, b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// spec is that of an ordinary container of a server.
func (h *host) spec(id string, args ...string) *specs.Spec {
	self, _ := os.Executable()
	s := &specs.Spec{
		Version: specs.Version, Root: &specs.Root{Path: "rootfs"}, Hostname: "inside",
		Process: &specs.Process{
			Args: args, Env: []string{"PATH=/bin", "A=b"}, Cwd: "/", User: specs.User{UID: 999, GID: 999, AdditionalGids: []uint32{5, 7}},
			NoNewPrivileges: true, Capabilities: &specs.LinuxCapabilities{},
			Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 4096, Soft: 1024}},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
			{Destination: probePath, Type: "bind", Source: self, Options: []string{"bind", "ro"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: "/" + filepath.Base(h.dir) + "/" + id,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
				{Type: specs.NetworkNamespace},
			},
			Resources:     &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
			MaskedPaths:   []string{"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware", "/nowhere"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
	s.Linux.Seccomp = seccomp.DefaultProfile(s)
	return s
}

// create makes a container of a runtime, and its task.
func (h *host) create(t testing.TB, runtime, id string, s *specs.Spec, io cio.Creator) client.Task {
	t.Helper()
	task, err := h.try(t, runtime, id, s, io)
	if err != nil {
		t.Fatal(err)
	}
	return task
}

// try is create that may fail; it leaves nothing behind then.
func (h *host) try(t testing.TB, runtime, id string, s *specs.Spec, io cio.Creator) (client.Task, error) {
	t.Helper()
	record := containers.Container{ID: id, Runtime: containers.RuntimeInfo{Name: runtime}}
	var err error
	if record.Spec, err = typeurl.MarshalAny(s); err != nil {
		t.Fatal(err)
	}
	if runtime == Name {
		if record.SandboxID, err = h.pool.Acquire(h.ctx); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.client.ContainerService().Create(h.ctx, record); err != nil {
		t.Fatal(err)
	}
	c, err := h.client.LoadContainer(h.ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	upper := filepath.Join(h.dir, "upper", id)
	for _, d := range []string{"u", "w"} {
		if err := os.MkdirAll(filepath.Join(upper, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	rootfs := []mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{
		"lowerdir=" + h.rootfs, "upperdir=" + upper + "/u", "workdir=" + upper + "/w", "index=off",
	}}}
	if len(s.Linux.UIDMappings) > 0 {
		if rootfs, err = h.mapped(t).Mounts(rootfs); err != nil {
			t.Fatal(err)
		}
	}
	task, err := c.NewTask(h.ctx, io, client.WithRootFS(rootfs))
	if err != nil {
		if err := errors.Join(h.client.ContainerService().Delete(h.ctx, id), h.pool.Release(h.ctx, record.SandboxID)); err != nil {
			t.Error(err)
		}
	}
	return task, err
}

func (h *host) remove(t testing.TB, task client.Task) {
	t.Helper()
	if _, err := task.Delete(h.ctx, client.WithProcessKill); err != nil {
		t.Error(err)
	}
	c, err := h.client.ContainerService().Get(h.ctx, task.ID())
	if err == nil {
		err = h.pool.Release(h.ctx, c.SandboxID)
	}
	if err == nil {
		err = h.client.ContainerService().Delete(h.ctx, task.ID())
	}
	if err != nil {
		t.Error(err)
	}
}

// run runs a container to its end and returns what it says.
func (h *host) run(t *testing.T, runtime string, change func(*specs.Spec)) string {
	t.Helper()
	id := "diff-" + strings.ToLower(rand.Text())[:6]
	s := h.spec(id, probePath)
	if change != nil {
		change(s)
	}
	var out, errs bytes.Buffer
	task := h.create(t, runtime, id, s, cio.NewCreator(cio.WithStreams(nil, &out, &errs), cio.WithFIFODir(filepath.Join(h.dir, "fifo"))))
	defer h.remove(t, task)
	exit, err := task.Wait(h.ctx)
	if err == nil {
		err = task.Start(h.ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	select {
	case e := <-exit:
		task.IO().Wait()
		if e.ExitCode() != 0 {
			t.Fatalf("%s: exit code %d: %s%s", runtime, e.ExitCode(), &out, &errs)
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("%s: no end", runtime)
	}
	return out.String()
}

// hardened asks for all that the launcher can do beyond the ordinary.
func (h *host) hardened(s *specs.Spec) {
	limit, pids, quota, period, shares, score := int64(512<<20), int64(200), int64(50000), uint64(100000), uint64(512), 500
	umask := uint32(0o077)
	s.Root.Readonly = true
	s.Process.User = specs.User{UID: 0, GID: 0, Umask: &umask}
	s.Process.Cwd = "/etc"
	s.Process.OOMScoreAdj = &score
	caps := []string{"CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"}
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Permitted: caps, Effective: caps, Inheritable: caps[:2], Ambient: caps[:1]}
	s.Process.Rlimits = append(s.Process.Rlimits, specs.POSIXRlimit{Type: "RLIMIT_CORE"}, specs.POSIXRlimit{Type: "RLIMIT_NPROC", Soft: 300, Hard: 400})
	s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
	s.Linux.Resources.Pids = &specs.LinuxPids{Limit: &pids}
	s.Linux.Resources.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period, Shares: &shares}
	s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/proc/interrupts", "/etc")
	s.Linux.ReadonlyPaths = append(s.Linux.ReadonlyPaths, "/dev/shm")
	s.Mounts = append(s.Mounts,
		specs.Mount{Destination: "/data", Type: "bind", Source: h.rootfs, Options: []string{"rbind", "ro", "nosuid", "nodev", "noexec"}},
		specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "size=1m", "ro"}})
	s.Process.Cwd = "/data"
}

// ofTests are the host's ids of root and others in user namespaces.
const ofTests = 0x6fff0000

// remapped asks for a user namespace.
func remapped(s *specs.Spec) {
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: ofTests, Size: 1 << 16}}
	s.Linux.GIDMappings = s.Linux.UIDMappings
}

// mapped is what lies below dir as the user namespaces have it.
func (h *host) mapped(t testing.TB) *overlay.View {
	t.Helper()
	if h.view != nil {
		return h.view
	}
	l, err := launch.New()
	must(t, err)
	defer l.Close()
	ids := []specs.LinuxIDMapping{{HostID: ofTests, Size: 1 << 16}, {ContainerID: 1<<32 - 2, Size: 1}}
	ns, err := l.Namespace(launch.IDs{Users: ids, Groups: ids})
	must(t, err)
	defer ns.Close()
	h.view, err = overlay.NewView(h.dir, filepath.Join(h.dir, "mapped", "layers"), ns)
	must(t, err)
	return h.view
}

// TestIsolation holds the launcher to runc: the same container is the same from
// inside, whichever made it.
func TestIsolation(t *testing.T) {
	h := newHost(t)
	for name, change := range map[string]func(*specs.Spec){
		"ordinary":                    nil,
		"hardened":                    h.hardened,
		"privileges by seccomp first": func(s *specs.Spec) { s.Process.NoNewPrivileges = false },
		"without seccomp":             func(s *specs.Spec) { s.Linux.Seccomp = nil },
		"user namespace":              remapped,
		"hardened user namespace": func(s *specs.Spec) {
			remapped(s)
			h.hardened(s)
		},
	} {
		t.Run(name, func(t *testing.T) {
			want, got := parse(t, h.run(t, runcRuntime, change)), parse(t, h.run(t, Name, change))
			compare(t, want, got)
		})
	}
}

func parse(t *testing.T, out string) map[string]string {
	t.Helper()
	m := map[string]string{}
	if err := json.Unmarshal([]byte(out), &m); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return m
}

// compare reports what differs. Namespaces are to be the host's in both or in none.
func compare(t *testing.T, runc, ours map[string]string) {
	t.Helper()
	for k := range ours {
		if _, ok := runc[k]; !ok {
			t.Errorf("%s: only ours has %q", k, ours[k])
		}
	}
	for k, want := range runc {
		got, ok := ours[k]
		if kind, isNS := strings.CutPrefix(k, "ns "); isNS {
			hosts, _ := os.Readlink("/proc/self/ns/" + kind)
			want, got = fmt.Sprint(want == hosts), fmt.Sprint(got == hosts)
		}
		if !ok || got != want && !accepted(k, want, got) {
			t.Errorf("%s:\nrunc %q\nours %q", k, want, got)
		}
	}
}

// accepted are differences that are none of isolation: fifos are not copied, profiles
// name calls that the table of an old libseccomp lacks, and message queues lie in a directory for all
// that is, in a user namespace, nobody's.
func accepted(key, runc, ours string) bool {
	var nr int
	if _, err := fmt.Sscanf(key, "call %d", &nr); err == nil {
		const newerThanLibseccomp = 451 // the first that 2.5.4 does not know
		return nr >= newerThanLibseccomp && runc == fmt.Sprint(int(unix.ENOSYS))
	}
	if key == "dev /dev/mqueue" {
		return runc == "41777 0:65534 2 0 " && ours == "41777 65534:65534 2 0 "
	}
	return strings.HasPrefix(key, "fd ") && runc == "pipe" && ours == "fifo"
}
