package launch

import (
	"context"
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"

	compiler "github.com/ctrsnap/ctrsnap/runtime/launch/seccomp"
)

// BenchmarkLaunch measures the steps of a container's life, without a shim.
func BenchmarkLaunch(b *testing.B) {
	w := newWorld(b)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	s := testSpec("/bin/true")
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
