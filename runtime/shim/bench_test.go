package shim

import (
	"fmt"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/cio"
)

// BenchmarkLife measures containers of both runtimes, by turns, in a network
// namespace that is there already.
func BenchmarkLife(b *testing.B) {
	h := newHost(b)
	netns := "ctrsnap-bench"
	must(b, exec.Command("ip", "netns", "add", netns).Run())
	defer func() { must(b, exec.Command("ip", "netns", "del", netns).Run()) }()
	steps := map[string][]time.Duration{}
	n := 0
	for b.Loop() {
		n++
		for _, runtime := range []string{runcRuntime, Name} {
			id := fmt.Sprintf("life%d", n)
			s := h.spec(id, "sleep", "100")
			s.Linux.Namespaces[4].Path = "/run/netns/" + netns
			begun := time.Now()
			step := func(name string) {
				name += "-" + map[string]string{runcRuntime: "runc", Name: "ours"}[runtime]
				steps[name] = append(steps[name], time.Since(begun))
				begun = time.Now()
			}
			task := h.create(b, runtime, id, s, cio.NullIO)
			step("create")
			must(b, task.Start(h.ctx))
			step("start")
			h.remove(b, task)
			step("delete")
		}
	}
	for name, d := range steps {
		slices.Sort(d)
		b.ReportMetric(float64(d[len(d)/2].Microseconds())/1000, name+"-p50-ms")
		b.ReportMetric(float64(d[0].Microseconds())/1000, name+"-min-ms")
	}
}
