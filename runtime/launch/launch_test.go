package launch

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ctrsnap/ctrsnap/runtime/launch/cgroup"
	compiler "github.com/ctrsnap/ctrsnap/runtime/launch/seccomp"
)

func testSpec(args ...string) *specs.Spec {
	s := &specs.Spec{
		Version: specs.Version, Root: &specs.Root{Path: "rootfs"}, Hostname: "inside",
		Process: &specs.Process{
			Args: args, Env: []string{"PATH=/usr/bin:/bin"}, Cwd: "/", User: specs.User{UID: 1000, GID: 1000},
			NoNewPrivileges: true, Capabilities: &specs.LinuxCapabilities{},
			Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 4096, Soft: 4096}},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
		},
		Linux: &specs.Linux{
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

// world is what the launching of containers needs.
type world struct {
	launcher *Launcher
	host     *cgroup.Host
}

func newWorld(t testing.TB) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	l, err := New()
	if err != nil {
		t.Fatal(err)
	}
	h, err := cgroup.NewHost("/sys/fs/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	return &world{l, h}
}

func (w *world) config(t testing.TB, s *specs.Spec) Config {
	t.Helper()
	dir := t.TempDir()
	id := filepath.Base(filepath.Dir(dir)) + filepath.Base(dir)
	s.Linux.CgroupsPath = "/ctrsnap-test/" + id
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := ParseSpec(data)
	if err != nil {
		t.Fatal(err)
	}
	filter, err := compiler.Compile(s.Linux.Seccomp)
	if err != nil {
		t.Fatal(err)
	}
	g, err := w.host.Create(t.Context(), s.Linux.CgroupsPath, s.Linux.Resources)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Remove(t.Context()); err != nil {
			t.Error(err)
		}
	})
	return Config{
		ID: id, Bundle: dir, Spec: parsed, Filter: filter, Cgroup: g,
		Rootfs: []mount.Mount{{Type: "bind", Source: "/", Options: []string{"bind"}}},
	}
}

// output runs a container and returns what it says.
func (w *world) output(t *testing.T, s *specs.Spec) (string, Exit) {
	t.Helper()
	c := w.config(t, s)
	r, wr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	c.Stdio = Stdio{Stdin: null, Stdout: wr, Stderr: wr}
	p, _, err := w.launcher.Create(c)
	wr.Close()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	r.Close()
	if err != nil {
		t.Fatal(err)
	}
	e, err := p.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return string(out), e
}

func TestLaunch(t *testing.T) {
	w := newWorld(t)
	out, e := w.output(t, testSpec("sh", "-c", "id; cat /proc/self/status /proc/self/mountinfo /proc/self/cgroup; ls -la /dev /proc/self/fd; cat /proc/kcore; ls /sys/firmware; hostname; ulimit -n; pwd; env; ip link; exit 7"))
	t.Log(out, e)
}
