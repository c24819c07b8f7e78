package launch

import (
	"context"
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	compiler "github.com/ctrsnap/ctrsnap/runtime/launch/seccomp"
)

// BenchmarkLaunch measures the steps of a container's life, without a shim.
func BenchmarkLaunch(b *testing.B) {
	b.Run("ordinary", func(b *testing.B) { benchmarkLaunch(b, testSpec("/bin/true")) })
	b.Run("user namespace", func(b *testing.B) {
		s := testSpec("/bin/true")
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		s.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: 0x6fff0000, Size: 1 << 16}}
		s.Linux.GIDMappings = s.Linux.UIDMappings
		benchmarkLaunch(b, s)
	})
}

func benchmarkLaunch(b *testing.B, s *specs.Spec) {
	w := newWorld(b)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	s.Linux.CgroupsPath = "/ctrsnap-test-bench"
	data, err := json.Marshal(s)
	if err != nil {
		b.Fatal(err)
	}
	filter, err := compiler.Compile(s.Linux.Seccomp)
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	total := map[string]time.Duration{}
	for b.Loop() {
		begun := time.Now()
		step := func(name string) {
			total[name] += time.Since(begun)
			begun = time.Now()
		}
		parsed, err := ParseSpec(data)
		if err != nil {
			b.Fatal(err)
		}
		step("parse")
		g, err := w.host.Create(b.Context(), s.Linux.CgroupsPath, s.Linux.Resources)
		if err != nil {
			b.Fatal(err)
		}
		step("cgroup")
		p, _, err := w.launcher.Create(Config{
			ID: "bench", Bundle: dir, Spec: parsed, Filter: filter, Cgroup: g, Stdio: Stdio{Stdin: null, Stdout: null, Stderr: null},
			Rootfs: []mount.Mount{{Type: "bind", Source: "/", Options: []string{"bind"}}},
		})
		if err != nil {
			b.Fatal(err)
		}
		step("create")
		if err := p.Start(); err != nil {
			b.Fatal(err)
		}
		step("start")
		if _, err := p.Wait(); err != nil {
			b.Fatal(err)
		}
		step("wait")
		if err := g.Remove(context.Background()); err != nil {
			b.Fatal(err)
		}
		step("remove")
	}
	for name, d := range total {
		b.ReportMetric(float64(d.Nanoseconds())/1e6/float64(b.N), name+"-ms/op")
	}
}

// BenchmarkExec measures a process that joins a container, from its start to its end.
func BenchmarkExec(b *testing.B) {
	w := newWorld(b)
	c := w.config(b, testSpec("sleep", "1000"))
	p, _, err := w.launcher.Create(c)
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		_ = p.Signal(unix.SIGKILL)
		_, _ = p.Wait()
	}()
	if err := p.Start(); err != nil {
		b.Fatal(err)
	}
	proc := testSpec("true").Process
	for b.Loop() {
		joined, _, err := w.launcher.Exec(p, Join{ID: c.ID, Process: proc, Filter: c.Filter, Cgroup: c.Cgroup})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := joined.Wait(); err != nil {
			b.Fatal(err)
		}
		joined.Close()
	}
}
