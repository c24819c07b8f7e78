package scenario

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ctrsnap/ctrsnap/bench"
	openloop "github.com/ctrsnap/ctrsnap/bench/load"
	"github.com/ctrsnap/ctrsnap/bench/peer"
	"github.com/ctrsnap/ctrsnap/bench/recorder"
	"github.com/ctrsnap/ctrsnap/bench/report"
	"github.com/ctrsnap/ctrsnap/bench/sim"
	"github.com/ctrsnap/ctrsnap/bench/stat"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

func TestReadyCountsOneGolden(t *testing.T) {
	pools := []api.Pool{{Golden: "shop", Version: 2, Ready: 3, Making: 1}, {Golden: "small", Ready: 9}, {Golden: "shop", Version: 1, Ready: 1}}
	for golden, want := range map[string]int{"shop": 4, "small": 9, "other": 0} {
		if got := ready(pools, golden); got != want {
			t.Errorf("%s: got %d, want %d", golden, got, want)
		}
	}
}

func TestPerWindow(t *testing.T) {
	begun := time.Now()
	at := func(s float64) time.Time { return begun.Add(time.Duration(s * float64(time.Second))) }
	got := perWindow([]time.Time{at(0.1), at(4.9), at(5.1), at(14), at(15.5), at(99)}, begun, 15*time.Second)
	if !slices.Equal(got, []int{2, 1, 1}) {
		t.Errorf("got %v", got)
	}
}

func TestRateOfPgbench(t *testing.T) {
	const out = "pgbench (15.1)\nnumber of failed transactions: 0 (0.000%)\ninitial connection time = 5.2 ms\ntps = 1500.75 (without initial connection time)\n"
	if got, err := rateOf(out); err != nil || got != 1500.75 {
		t.Errorf("got %v, %v", got, err)
	}
	for _, wrong := range []string{"", strings.Replace(out, ": 0 (", ": 10 (", 1), strings.Replace(out, "tps", "rate", 1)} {
		if got, err := rateOf(wrong); err == nil {
			t.Errorf("%q: got %v", wrong, got)
		}
	}
}

func TestContents(t *testing.T) {
	const page = 8192
	if size := contents["big"].rows * page; size < 5<<30 {
		t.Errorf("big has %d bytes", size)
	}
	if size := contents["shop18"].rows * page; size < 1_500_000_000 {
		t.Errorf("shop18 has %d bytes", size)
	}
	if sql := contents["pgbench"].sql(true); !strings.Contains(sql, `\set scale 1`+"\n") || strings.Contains(sql, "%!") {
		t.Errorf("got %s", sql)
	}
}

// An arm's mistakes are counted and named, its warm-up is forgotten, and too
// many mistakes end the scenario.
func TestInterleaveCountsErrors(t *testing.T) {
	tk := &take{Env: &Env{Span: time.Minute}}
	a, b := recorder.New("a", "", "ms"), recorder.New("b", "", "ms")
	err := interleave(t.Context(), tk, 2, 5, []*recorder.Recorder{a, b},
		func(context.Context, int) error { a.Add(1); return nil },
		func(_ context.Context, round int) error {
			if round == 4 {
				return errors.New("wrong rows")
			}
			b.Add(2)
			return nil
		})
	if err != nil || a.Series().N != 5 || b.Series().N != 4 || b.Series().Errors != 1 || !slices.Equal(tk.res.Errors, []string{"wrong rows"}) {
		t.Errorf("error %v, a %+v, b %+v, errors %q", err, a.Series(), b.Series(), tk.res.Errors)
	}
	err = interleave(t.Context(), tk, 0, 1000, []*recorder.Recorder{a}, func(context.Context, int) error { return errors.New("down") })
	if err == nil || len(tk.res.Errors) != maxErrors {
		t.Errorf("error %v, errors %q", err, tk.res.Errors)
	}
}

func TestProcessMemory(t *testing.T) {
	m, err := processMemory(os.Getpid())
	if err != nil || m.private < 1<<20 || m.own < 1<<20 {
		t.Errorf("got %+v, %v", m, err)
	}
	if m, err := processMemory(1 << 30); err == nil {
		t.Errorf("got %+v of no process", m)
	}
}

// A scenario that panics has failed, as others do; what it had found stays.
func TestPanicIsAnError(t *testing.T) {
	tk := &take{Env: &Env{}}
	m := measured{name: "broken", measure: func(_ context.Context, t *take) error {
		t.note("before")
		panic("bug")
	}}
	if err := m.run(t.Context(), tk); err == nil || !strings.Contains(err.Error(), "panic: bug") || len(tk.res.Notes) != 1 {
		t.Errorf("got %v, %+v", err, tk.res)
	}
}

// broken is a peer that hands out nothing.
type broken struct{ peer.Peer }

func (broken) Name() string { return "broken" }
func (broken) Get(context.Context) (peer.Endpoint, peer.Drop, error) {
	return peer.Endpoint{}, nil, errors.New("no server")
}

// A peer that does not work is an error of its series, once, and no end of the race.
func TestBrokenPeerEndsNoRace(t *testing.T) {
	tk := &take{Env: &Env{Span: time.Minute}}
	if err := tk.race(t.Context(), "app", []peer.Peer{broken{}}); err != nil {
		t.Fatal(err)
	}
	if s := tk.res.Series; len(s) != 1 || s[0].Name != "broken" || s[0].Errors != 1 || len(tk.res.Errors) != 1 {
		t.Errorf("got %+v", tk.res)
	}
}

// What is measured as the model has it is predicted; a turn in which others worked does not
// count, and without any other there is no ratio.
func TestTrialLeavesOutWhatOthersDisturbed(t *testing.T) {
	model := func(float64) sim.Model {
		return sim.Model{Pool: 1, Refill: 1, Slots: 2, Cores: 2, Claim: sim.Step{Takes: sim.Constant(0.002), CPUs: 1},
			Make: sim.Step{Takes: sim.Exponential(0.05), CPUs: 1}, Remove: sim.Step{Takes: sim.Constant(0.02), CPUs: 1}}
	}
	const n = 1000
	r := rand.New(rand.NewPCG(7, 7))
	callers := sim.Arrivals(openloop.Poisson(10, n, r), sim.Exponential(0.5), r)
	quiet, busy := turn{callers: callers, life: 100}, turn{callers: callers, life: 155, took: []time.Duration{time.Hour}}
	for _, s := range sim.Run(model(0), callers, r).Latency {
		quiet.took = append(quiet.took, time.Duration(s*float64(time.Second)))
	}
	costs := []float64{100, 110, 120}
	tk, tr := &take{Env: &Env{}}, newTrial("app", 1, 0.5, 1)
	tr.turns = []turn{quiet, busy}
	tr.count(tk, costs, model)
	tr.judge(tk)
	if s := tr.measured.Series(); s.N != n || s.Max > 60_000 || tr.life.Series().N != 2 {
		t.Errorf("measured %+v", s)
	}
	if x := tk.res.Ratios; len(x) != 1 || x[0].Name != "plan_claim_p99" || x[0].P99 < 0.8 || x[0].P99 > 1.25 {
		t.Errorf("got %+v", x)
	}
	tk, tr = &take{Env: &Env{}}, newTrial("app", 1, 0.5, 1)
	tr.turns = []turn{busy}
	tr.count(tk, costs, model)
	tr.judge(tk)
	if len(tk.res.Ratios) != 0 || len(tk.res.Skipped) != 1 {
		t.Errorf("got %+v", tk.res)
	}
}

// Two runs that found the machine able to do different things have the same series: they can be
// compared.
func TestRunsOfThePoolCompare(t *testing.T) {
	ran := func(capacity float64) []bench.Result {
		tk := &take{Env: &Env{}, res: bench.Result{Scenario: "pool"}}
		for i, l := range poolLoads {
			tr := newTrial("app", l.members, l.part, uint64(i))
			tr.turns = []turn{{rate: 0.9 * l.part * capacity}, {rate: 1.1 * l.part * capacity}}
			for range 50 {
				tr.measured.Add(100 / capacity)
				tr.predicted.Add(100 / capacity)
			}
			tr.judge(tk)
		}
		return []bench.Result{tk.res}
	}
	old, slower := ran(20), ran(13.7)
	changes := report.Changes(old, slower)
	if n := len(old[0].Series); n != 2*len(poolLoads) || len(changes) != n {
		t.Fatalf("%d series, %d of them compared", n, len(changes))
	}
	for _, c := range changes {
		if c.Verdict != stat.Worse || math.Abs(c.Series.With["rate"]-13.7*c.Series.At["load"]) > 1e-9 {
			t.Errorf("%s: %s: %+v", c.Series.Name, c.Verdict, c.Series)
		}
	}
	if a, b := old[0].Ratios, slower[0].Ratios; len(a) != len(poolLoads) || a[0].Over != b[0].Over || a[0].Over == a[1].Over {
		t.Errorf("ratios %+v and %+v", a, b)
	}
}
