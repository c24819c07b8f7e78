package launch

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

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
	s.Linux.CgroupsPath = "/ctrsnap-test"
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
	out, e := w.output(t, testSpec("sh", "-c", "hostname; ulimit -n; echo $$; exit 7"))
	if e.Code != 7 || out != "inside\n4096\n1\n" {
		t.Errorf("got %d, %q", e.Code, out)
	}
}

func TestProgramIsMissing(t *testing.T) {
	w := newWorld(t)
	for _, args := range [][]string{{"/nothing"}, {"nothing"}} {
		p, _, err := w.launcher.Create(w.config(t, testSpec(args...)))
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Start(); !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), args[0]) {
			t.Errorf("%v: %v", args, err)
		}
		if e, err := p.Wait(); err != nil || e.Code != 127 {
			t.Errorf("%v: %+v, %v", args, e, err)
		}
		p.Close()
	}
}

// TestCannotBeBuilt has the child fail, of which Start tells.
func TestCannotBeBuilt(t *testing.T) {
	w := newWorld(t)
	s := testSpec("true")
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=nonsense"}})
	p, _, err := w.launcher.Create(w.config(t, s))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.launcher.Exec(p, Join{Process: s.Process}); !errors.Is(err, unix.EINVAL) {
		t.Errorf("joined: %v", err)
	}
	if err := p.Start(); !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "/mnt") {
		t.Error(err)
	}
	if e, err := p.Wait(); err != nil || e.Code != 127 {
		t.Errorf("%+v, %v", e, err)
	}
	p.Close()
}

// TestRefuse changes one thing of a specification that is done.
func TestRefuse(t *testing.T) {
	if err := Check(testSpec("true")); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*specs.Spec){
		"hooks":                   func(s *specs.Spec) { s.Hooks = &specs.Hooks{} },
		"linux.sysctl":            func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"a": "b"} },
		"linux.devices":           func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x"}} },
		"linux.resources.devices": func(s *specs.Spec) { s.Linux.Resources.Devices[0].Allow = true },
		"linux.uidMappings: no root": func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		},
		"path of user": func(s *specs.Spec) {
			s.Linux.Namespaces[0] = specs.LinuxNamespace{Type: specs.UserNamespace, Path: "/x"}
		},
		"linux.uidMappings": func(s *specs.Spec) { s.Linux.UIDMappings = []specs.LinuxIDMapping{{Size: 1}} },
		"not the user of process": func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
			s.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: 7, Size: 1000}}
			s.Linux.GIDMappings = []specs.LinuxIDMapping{{HostID: 7, Size: 1001}}
		},
		"path of pid":                func(s *specs.Spec) { s.Linux.Namespaces[0].Path = "/x" },
		"no mount":                   func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[:3] },
		"process.apparmorProfile":    func(s *specs.Spec) { s.Process.ApparmorProfile = "x" },
		"process.selinuxLabel":       func(s *specs.Spec) { s.Process.SelinuxLabel = "x" },
		"CAP_SYS_PTRACE":             func(s *specs.Spec) { s.Process.Capabilities.Bounding = []string{"CAP_SYS_PTRACE"} },
		"capabilities is missing":    func(s *specs.Spec) { s.Process.Capabilities = nil },
		"mounts: option idmap":       func(s *specs.Spec) { s.Mounts[0].Options = []string{"idmap"} },
		"mounts: uidMappings":        func(s *specs.Spec) { s.Mounts[0].UIDMappings = []specs.LinuxIDMapping{{}} },
		"mounts: type nfs":           func(s *specs.Spec) { s.Mounts[3].Type = "nfs" },
		"mounts: bind to /proc/x":    func(s *specs.Spec) { s.Mounts[3] = specs.Mount{Type: "bind", Destination: "/sys/../proc/x"} },
		"mounts: no proc at /proc":   func(s *specs.Spec) { s.Mounts = s.Mounts[1:] },
		"mounts: no tmpfs at /dev":   func(s *specs.Spec) { s.Mounts = s.Mounts[:1] },
		"linux.cgroupsPath":          func(s *specs.Spec) { s.Linux.CgroupsPath = "/a/../.." },
		"linux.rootfsPropagation":    func(s *specs.Spec) { s.Linux.RootfsPropagation = "shared" },
		"linux.seccomp.listenerPath": func(s *specs.Spec) { s.Linux.Seccomp.ListenerPath = "/x" },
		"action SCMP_ACT_TRACE":      func(s *specs.Spec) { s.Linux.Seccomp.DefaultAction = specs.ActTrace },
	} {
		s := testSpec("true")
		change(s)
		if err := Check(s); !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
}

func TestParseSpecUnknownField(t *testing.T) {
	if _, err := ParseSpec([]byte(`{"linux":{"novelty":1}}`)); !errdefs.IsNotImplemented(err) {
		t.Errorf("got %v", err)
	}
}
