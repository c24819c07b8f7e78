package bench_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ctrsnap/ctrsnap/bench"
)

func TestInterleaveTakesTurns(t *testing.T) {
	var got []string
	arm := func(name string) bench.Arm {
		return func(context.Context, int) error { got = append(got, name); return nil }
	}
	if err := bench.Interleave(t.Context(), 3, arm("A"), arm("B")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split("A B A B A B", " "), got); diff != "" {
		t.Error(diff)
	}
}

func TestInterleaveEndsWithTheFirstError(t *testing.T) {
	broken := errors.New("broken")
	var rounds []int
	err := bench.Interleave(t.Context(), 5,
		func(_ context.Context, round int) error { rounds = append(rounds, round); return nil },
		func(_ context.Context, round int) error {
			if round == 1 {
				return broken
			}
			return nil
		})
	if !errors.Is(err, broken) || !slices.Equal(rounds, []int{0, 1}) {
		t.Errorf("rounds %v, error %v", rounds, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	called := false
	err = bench.Interleave(ctx, 5, func(context.Context, int) error { called = true; return nil })
	if !errors.Is(err, context.Canceled) || called {
		t.Errorf("called %v, error %v", called, err)
	}
}

func TestRatios(t *testing.T) {
	fast := bench.Series{Name: "fast", N: 10, P1: 1, P50: 10, P99: 20}
	slow := bench.Series{Name: "slow", N: 10, P1: 4, P50: 20, P99: 80}
	for _, test := range []struct {
		name        string
		over, under bench.Series
		p50, p99    float64
		ok          bool
	}{
		{"cold_vs_bare", slow, fast, 2, 4, false},
		{"cold_vs_bare", fast, slow, 0.5, 0.25, true},
		{"cold_vs_template", fast, fast, 1, 1, false}, // must be faster
		{"query_select_vs_bare", fast, slow, 0.5, 0.25, false},
		{"throughput_vs_runc", bench.Series{N: 1, P1: 30, P50: 30}, fast, 3, 30, true},
		{"unknown", slow, fast, 2, 4, true},
	} {
		r, ok := bench.Compare(test.name, test.over, test.under)
		if !ok || r.P50 != test.p50 || r.P99 != test.p99 || r.OK() != test.ok || r.Over != test.over.Name || r.Under != test.under.Name {
			t.Errorf("%s: got %+v, ok %v", test.name, r, r.OK())
		}
	}
	for _, empty := range []bench.Series{{}, {N: 3}} {
		if r, ok := bench.Compare("cold_vs_bare", fast, empty); ok {
			t.Errorf("compared with nothing: %+v", r)
		}
	}
}

// TestSchema holds the names that readers of the JSON rely on.
func TestSchema(t *testing.T) {
	r := bench.Result{
		Schema: bench.Schema, Scenario: "cold",
		Series: []bench.Series{{Name: "ctrsnap", Golden: "shop", Unit: "ms", N: 200, Stages: map[string]float64{"prepare": 1}}},
		Ratios: []bench.Ratio{{Name: "cold_vs_bare", P50: 1.2, P99: 1.3, Over: "ctrsnap", Under: "bare", Must: 1.4, Aim: 1.15}},
	}
	b, err := json.Marshal([]bench.Result{r})
	if err != nil {
		t.Fatal(err)
	}
	var got []map[string]any
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	want := func(what string, have any, keys string) {
		m, ok := have.(map[string]any)
		for _, key := range strings.Fields(keys) {
			if _, has := m[key]; !ok || !has {
				t.Errorf("%s has no %s", what, key)
			}
		}
	}
	want("result", got[0], "schema scenario quick started machine noisy series ratios")
	want("series", got[0]["series"].([]any)[0], "name golden unit n errors min p50 p90 p99 max stages")
	want("ratio", got[0]["ratios"].([]any)[0], "name p50 p99 over under must aim")
	want("machine", got[0]["machine"], "kernel cpu cpus memory_bytes filesystem reflink versions load_before load_after")
}

func TestNoisy(t *testing.T) {
	for _, m := range []bench.Machine{{BusyBefore: 0.5}, {BusyAfter: 0.5}} {
		if !m.Noisy() {
			t.Errorf("%+v is quiet", m)
		}
	}
	if m := (bench.Machine{BusyBefore: 0.02, BusyAfter: 0.1}); m.Noisy() {
		t.Errorf("%+v is noisy", m)
	}
}
