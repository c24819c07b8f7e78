package plan_test

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ctrsnap/ctrsnap/bench"
	"github.com/ctrsnap/ctrsnap/bench/load"
	"github.com/ctrsnap/ctrsnap/bench/plan"
	"github.com/ctrsnap/ctrsnap/bench/sim"
	"github.com/ctrsnap/ctrsnap/bench/stat"
)

// profile is a machine with 4 CPUs on which a clone takes 50 ms and 10 MiB.
func profile() plan.Profile {
	return plan.Profile{
		Schema: plan.Schema, Golden: "shop",
		Machine: bench.Machine{CPUs: 4, MemoryBytes: 18 << 30, StorageFree: 100 << 30},
		Hit:     []float64{2, 2.5, 3}, Make: []float64{45, 50, 55}, Remove: []float64{20, 25, 30},
		HitCPU: 2, MakeCPU: 60, RemoveCPU: 18,
		CloneBytes: 10 << 20, CloneDisk: 1 << 20, Addresses: 1023, Refill: 2, Slots: 8,
	}
}

func TestSmallLoadNeedsOneRunner(t *testing.T) {
	a, err := plan.Make(profile(), plan.Load{PerDay: 20_000, Peak: 3, Lifetime: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if a.Runners != 1 || a.Pool < 1 || a.Pool > 16 || math.Abs(a.Rate-20_000*3/86_400.0) > 1e-9 || math.Abs(a.Live-a.Rate*30) > 1e-9 {
		t.Errorf("got %+v", a)
	}
	if a.Clones != 1023 { // memory is for 1,638
		t.Errorf("%d clones on a runner", a.Clones)
	}
	if a.Claims["p99"] > 6 || a.Hits < 0.98 {
		t.Errorf("claims %v, hits %g", a.Claims, a.Hits)
	}
}

// What runs out first follows from the load.
func TestWhatRunsOutFirst(t *testing.T) {
	base := plan.Load{PerDay: 200_000, Peak: 2, Lifetime: 10 * time.Second}
	for first, change := range map[string]func(*plan.Load, *plan.Profile){
		"memory":    func(l *plan.Load, _ *plan.Profile) { l.Lifetime, l.JobMemory = 200*time.Second, 200<<20 },
		"disk":      func(l *plan.Load, _ *plan.Profile) { l.Written, l.Lifetime = 2<<30, 100*time.Second },
		"addresses": func(l *plan.Load, _ *plan.Profile) { l.Lifetime = 10 * time.Minute },
		"cpu":       func(l *plan.Load, p *plan.Profile) { l.JobCPUs = 0.1 },
		"refill":    func(l *plan.Load, p *plan.Profile) { p.Refill, l.PerDay, l.Lifetime = 1, 400_000, time.Second },
	} {
		l, p := base, profile()
		change(&l, &p)
		a, err := plan.Make(p, l)
		if err != nil || a.First != first || a.Resources[0].Used > 1.001 {
			t.Errorf("%s: got %s, %v: %+v", first, a.First, err, a.Resources)
		}
	}
}

// A plan holds: on the runners and with the pools that it says, claims are
// instant, and with half of the runners they are not.
func TestPlanHolds(t *testing.T) {
	p := profile()
	l := plan.Load{PerDay: 5_000_000, Peak: 2, Lifetime: 5 * time.Second}
	a, err := plan.Make(p, l)
	if err != nil {
		t.Fatal(err)
	}
	p99 := func(runners, pool int) float64 {
		r := rand.New(rand.NewPCG(99, 99))
		callers := sim.Arrivals(load.Poisson(a.Rate/float64(runners), 20_000, r), sim.Exponential(5), r)
		return 1e3 * stat.Quantile(sim.Run(p.Model(pool), callers, r).Latency, 0.99)
	}
	if got := p99(a.Runners, a.Pool); got > 9 { // three times a hit
		t.Errorf("%d runners with pools of %d: p99 %g ms", a.Runners, a.Pool, got)
	}
	if a.Runners < 2 {
		t.Fatalf("%d runners", a.Runners)
	}
	if got := p99(a.Runners/2, a.Pool); got < 9 {
		t.Errorf("half of the runners do: p99 %g ms", got)
	}
}

func TestParallelBoundsTheLoad(t *testing.T) {
	l := plan.Load{PerDay: 1_000_000, Peak: 3, Lifetime: 10 * time.Second, Parallel: 20}
	a, err := plan.Make(profile(), l)
	if err != nil || math.Abs(a.Rate-2) > 1e-9 || math.Abs(a.Live-20) > 1e-9 || len(a.Notes) != 1 {
		t.Errorf("got %+v, %v", a, err)
	}
}

func TestImpossibleLoads(t *testing.T) {
	l := plan.Load{PerDay: 1000, Lifetime: time.Second, JobMemory: 1 << 40}
	if _, err := plan.Make(profile(), l); !errors.Is(err, plan.ErrTooMuch) {
		t.Errorf("got %v", err)
	}
	for _, l := range []plan.Load{{}, {PerDay: 5}, {PerDay: -1, Lifetime: 1}, {PerDay: math.NaN(), Lifetime: 1}, {Lifetime: 5}} {
		if a, err := plan.Make(profile(), l); err == nil {
			t.Errorf("%+v: got %+v", l, a)
		}
	}
	broken := profile()
	broken.Make = nil
	if _, err := plan.Make(broken, plan.Load{PerDay: 5, Lifetime: 1}); !errors.Is(err, plan.ErrIncomplete) {
		t.Errorf("got %v", err)
	}
}

func TestTrace(t *testing.T) {
	const text = "# when, how long\n2026-01-01T10:00:05Z 7\n2026-01-01T10:00:00Z\n\n2026-01-01T10:00:01.5Z,3\n"
	got, err := plan.ReadTrace(strings.NewReader(text), 2*time.Second)
	want := []sim.Arrival{{At: 0, Keeps: 2}, {At: 1.5, Keeps: 3}, {At: 5, Keeps: 7}}
	if err != nil || len(got) != 3 {
		t.Fatalf("got %v, %v", got, err)
	}
	for i := range want {
		if math.Abs(got[i].At-want[i].At) > 1e-3 || got[i].Keeps != want[i].Keeps {
			t.Errorf("%d: got %v, want %v", i, got[i], want[i])
		}
	}
	for _, bad := range []string{"", "x", "1 2 3", "1 x", "NaN 1", "1 -1", "1 NaN", "Inf 1"} {
		if got, err := plan.ReadTrace(strings.NewReader(bad), time.Second); err == nil {
			t.Errorf("%q: got %v", bad, got)
		}
	}
	if _, err := plan.ReadTrace(strings.NewReader("5"), 0); err == nil {
		t.Error("an arrival without a lifetime")
	}
}

// What a line of a trace cannot mean is said.
func TestWrongTraces(t *testing.T) {
	for text, want := range map[string]string{
		"":                            "no arrivals",
		"time,seconds\n1,2":           `line 1: when: want seconds, or a time as in RFC 3339, got "time"`,
		"1 2\n1 -5":                   `line 2: how long: want seconds, more than 0, got "-5"`,
		"1 0":                         "more than 0",
		"1 NaN":                       "more than 0",
		"NaN 1":                       "want seconds",
		"1 2 3":                       "3 fields",
		"2026-01-01T10:00:00Z,7\n5 1": "line 2: seconds in one line, and a time in another",
	} {
		if trace, err := plan.ReadTrace(strings.NewReader(text), time.Second); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, %v", text, trace, err)
		}
	}
}

// Of all who come at once as many clones live as come, however long they keep them; and few who
// come in a century are no more than that.
func TestShortAndSparseLoads(t *testing.T) {
	at := func(keeps float64) []sim.Arrival { return slices.Repeat([]sim.Arrival{{Keeps: keeps}}, 20) }
	for _, keeps := range []float64{10, 600, 1e6} {
		a, err := plan.Make(profile(), plan.Load{Trace: at(keeps)})
		if err != nil || a.Live != 20 || a.Runners < 1 {
			t.Errorf("20 at once for %g s: %g live, %g per second, %v", keeps, a.Live, a.Rate, err)
		}
	}
	a, err := plan.Make(profile(), plan.Load{PerDay: 1, Lifetime: 365 * 24 * time.Hour, JobMemory: 1 << 30})
	if err != nil || a.Runners < 365/15 || a.Claims["p99"] > 6 {
		t.Errorf("got %+v, %v", a, err)
	}
}

// A trace of bursts needs more members, of all runners, than the same number spread out.
func TestBurstsNeedLargerPools(t *testing.T) {
	var burst, even []sim.Arrival
	for i := range 600 {
		even = append(even, sim.Arrival{At: float64(i), Keeps: 1})
		burst = append(burst, sim.Arrival{At: float64(i / 30 * 30), Keeps: 1}) // thirty at a time
	}
	pool := func(trace []sim.Arrival) int {
		a, err := plan.Make(profile(), plan.Load{Trace: trace})
		if err != nil {
			t.Fatal(err)
		}
		return a.Pool * a.Runners
	}
	if b, e := pool(burst), pool(even); e > 2 || b < 20 {
		t.Errorf("%d for bursts of 30, %d else", b, e)
	}
}

func FuzzReadTrace(f *testing.F) {
	f.Add("0 1\n2026-01-01T10:00:05Z,7\n")
	f.Fuzz(func(t *testing.T, text string) {
		trace, err := plan.ReadTrace(strings.NewReader(text), time.Second)
		if err != nil {
			return
		}
		last := 0.0
		for _, a := range trace {
			if !(a.At >= last) || !(a.Keeps > 0) {
				t.Fatalf("%q: %v", text, trace)
			}
			last = a.At
		}
	})
}

func TestFromResults(t *testing.T) {
	series := func(name, unit string, v float64) bench.Series {
		return bench.Series{Name: name, Golden: "app", Unit: unit, N: 1, P50: v, Samples: []float64{v}}
	}
	results := []bench.Result{
		{Scenario: "pool", Machine: profile().Machine, Series: []bench.Series{
			series("hit", "ms", 3), series("make", "ms", 50), series("remove", "ms", 20),
			series("hit_cpu", "ms", 2), series("make_cpu", "ms", 60), series("remove_cpu", "ms", 15),
			{Name: "hit", N: 9, P50: 99, Samples: []float64{99}, At: map[string]float64{"load": 0.5}},
		}},
		{Scenario: "density", Series: []bench.Series{series("answering_per_gib", "1/GiB", 64), series("disk_bytes_per_clone", "bytes", 1<<20)}},
	}
	p, err := plan.FromResults(results, "")
	if err != nil || p.Hit[0] != 3 || p.MakeCPU != 60 || p.CloneBytes != 16<<20 || p.Golden != "app" || p.Refill != 2 || p.Slots != 8 {
		t.Errorf("got %+v, %v", p, err)
	}
	results[1].Quick = true
	if p, err := plan.FromResults(results, ""); err != nil || !p.Quick {
		t.Errorf("a smoke run of density is not told of: %+v, %v", p, err)
	} else if a, err := plan.Make(p, plan.Load{PerDay: 1000, Lifetime: time.Second}); err != nil || !strings.Contains(strings.Join(a.Notes, " "), "--quick") {
		t.Errorf("notes %q, %v", a.Notes, err)
	}
	if _, err := plan.FromResults(results[:1], ""); !errors.Is(err, plan.ErrIncomplete) || !strings.Contains(err.Error(), "density/answering_per_gib") {
		t.Errorf("got %v", err)
	}
}

// Runs of one golden are not mixed with those of another.
func TestFromResultsOfOneGolden(t *testing.T) {
	run := func(golden string, makeMS float64) []bench.Result {
		series := func(name string, v float64) bench.Series {
			return bench.Series{Name: name, Golden: "shop", N: 1, P50: v, Samples: []float64{v}}
		}
		return []bench.Result{
			{Scenario: "pool", Golden: golden, Machine: profile().Machine, Series: []bench.Series{
				series("hit", 3), series("make", makeMS), series("remove", 20), series("hit_cpu", 2), series("make_cpu", 60), series("remove_cpu", 15),
			}},
			{Scenario: "density", Golden: golden, Series: []bench.Series{series("answering_per_gib", 64), series("disk_bytes_per_clone", 1<<20)}},
		}
	}
	built, shop, big := run("", 50), run("shop", 70), run("big", 90)
	for _, c := range []struct {
		results []bench.Result
		golden  string
		makes   float64
		says    string // of the error
	}{
		{slices.Concat(built, shop), "", 50, ""},
		{slices.Concat(shop, built), "shop", 70, ""},
		{slices.Concat(built, shop, big), "big", 90, ""},
		{shop, "", 70, ""},
		{slices.Concat(shop, big), "", 0, "goldens shop, big: say which"},
		{built, "shop", 0, "ctrsnap bench pool density --golden shop --save"},
		{slices.Concat(built, shop[:1]), "shop", 0, "density/answering_per_gib, density/disk_bytes_per_clone: run 'ctrsnap bench pool density --golden shop --save"},
	} {
		p, err := plan.FromResults(c.results, c.golden)
		if c.says == "" && (err != nil || p.Make[0] != c.makes) {
			t.Errorf("golden %q: got %v, %v, want %g", c.golden, p.Make, err, c.makes)
		}
		if c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("golden %q: got %v, want %s", c.golden, err, c.says)
		}
	}
}

// Steps that disturb each other make a machine as if it had fewer processors, and a clone alone
// on it no slower.
func TestContention(t *testing.T) {
	p := profile()
	calm, alone := p.Model(2), sim.Arrivals([]time.Duration{0, time.Minute, 2 * time.Minute}, sim.Constant(1), rand.New(rand.NewPCG(1, 1)))
	p.Contention = 2
	busy := p.Model(2)
	if busy.Cores != calm.Cores/2 || busy.Make.CPUs != calm.Make.CPUs {
		t.Errorf("got %g processors of %g, %g for a clone of %g", busy.Cores, calm.Cores, busy.Make.CPUs, calm.Make.CPUs)
	}
	latency := func(m sim.Model) []float64 { return sim.Run(m, alone, rand.New(rand.NewPCG(1, 2))).Latency }
	if a, b := latency(calm), latency(busy); !slices.Equal(a, b) {
		t.Errorf("who is alone waits %v, and %v where steps disturb each other", a, b)
	}
	l := plan.Load{PerDay: 4_000_000, Peak: 2, Lifetime: 5 * time.Second}
	few, err := plan.Make(profile(), l)
	if err != nil {
		t.Fatal(err)
	}
	if many, err := plan.Make(p, l); err != nil || many.Runners <= few.Runners {
		t.Errorf("%d runners, %d where steps disturb each other: %v", few.Runners, many.Runners, err)
	}
	p.Contention = -1
	if _, err := plan.Make(p, l); !errors.Is(err, plan.ErrIncomplete) {
		t.Errorf("got %v", err)
	}
}
