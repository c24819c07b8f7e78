package study

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/ctrsnap/ctrsnap/bench"
	"github.com/ctrsnap/ctrsnap/bench/load"
	"github.com/ctrsnap/ctrsnap/bench/plan"
	"github.com/ctrsnap/ctrsnap/bench/sim"
	"github.com/ctrsnap/ctrsnap/bench/stat"
)

func TestStudy(t *testing.T) {
	for f, span := range map[string]time.Duration{"p2": 14 * time.Second, "p3": 13 * time.Second, "p4": 13 * time.Second} {
		b, _ := os.ReadFile("/tmp/w/live/o/" + f + "/results.json")
		var rs []bench.Result
		if json.Unmarshal(b, &rs) != nil {
			var r bench.Result
			if err := json.Unmarshal(b, &r); err != nil {
				t.Fatal(err)
			}
			rs = []bench.Result{r}
		}
		g := map[string]bench.Series{}
		for _, s := range rs[0].Series {
			if len(s.At) == 0 {
				g[s.Name] = s
			}
		}
		seed := uint64(0)
		for _, s := range rs[0].Series {
			if s.Name != "measured" {
				continue
			}
			rnd := rand.New(rand.NewPCG(seed, 3))
			seed++
			var turns [][]sim.Arrival
			n := int(s.At["rate"] * (span / 2).Seconds())
			for range 3 {
				at := load.Poisson(s.At["rate"], n, rnd)
				turns = append(turns, sim.Arrivals(at, sim.Exponential(.5), rnd))
			}
			alone := g["make_cpu"].P50 + g["query_cpu"].P50 + g["remove_cpu"].P50
			var runs [20][]float64
			var all []float64
			for i, callers := range turns {
				c := g["life_saturated"].Samples
				p := plan.Profile{Refill: 1, Slots: 4, Hit: g["hit"].Samples, Make: g["make"].Samples, Remove: g["remove"].Samples, HitCPU: g["hit_cpu"].P50, MakeCPU: g["make_cpu"].P50, RemoveCPU: g["remove_cpu"].P50, Contention: (c[i] + c[i+1]) / 2 / alone}
				p.Machine.CPUs = 2
				m := p.Model(int(s.At["pool"]))
				m.Query = plan.Step(g["query"].Samples, g["query_cpu"].P50)
				for j := range runs {
					l := sim.Run(m, callers, rand.New(rand.NewPCG(uint64(j), uint64(i)))).Latency
					runs[j] = append(runs[j], l...)
					all = append(all, l...)
				}
			}
			var p99s []float64
			for _, r := range runs {
				p99s = append(p99s, 1e3*stat.Quantile(r, .99))
			}
			fmt.Printf("%s pool %g rate %.1f n %d/%d: predicted p50 %.1f p90 %.1f p99 %.1f [%.0f..%.0f]; measured %.1f %.1f %.1f; ratio %.2f\n", f, s.At["pool"], s.At["rate"], 3*n, s.N, 1e3*stat.Quantile(all, .5), 1e3*stat.Quantile(all, .9), 1e3*stat.Quantile(all, .99), stat.Quantile(p99s, .05), stat.Quantile(p99s, .95), s.P50, s.P90, s.P99, 1e3*stat.Quantile(all, .99)/s.P99)
		}
	}
}
