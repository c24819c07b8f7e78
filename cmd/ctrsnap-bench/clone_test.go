package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ctrsnap/ctrsnap/bench"
	"github.com/ctrsnap/ctrsnap/bench/rig"
	"github.com/ctrsnap/ctrsnap/bench/scenario"
)

func TestConfiguration(t *testing.T) {
	got, err := configuration([]string{"pool.max=0", `containerd.runc="/a=b"`, "pool.auto=false"})
	want := rig.Config{"pool": "max = 0\nauto = false\n", "containerd": "runc = \"/a=b\"\n"}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	for _, bad := range []string{"", "max=0", ".max=0", "pool.=0", "pool.max"} {
		if c, err := configuration([]string{bad}); err == nil {
			t.Errorf("%q: got %v", bad, c)
		}
	}
}

func TestUnknownScenarioIsRefused(t *testing.T) {
	o := &options{of: scenario.Clone, bin: "/", only: []string{"cold", "nonsense"}}
	if s, err := o.prepare(); err == nil {
		t.Errorf("chose %d", len(s))
	}
	o.only = []string{"size", "cold"}
	if s, err := o.prepare(); err != nil || len(s) != 2 || s[0].Name() != "cold" {
		t.Errorf("chose %v, %v", s, err)
	}
}

func TestResultsAreAnArray(t *testing.T) {
	o := &options{out: filepath.Join(t.TempDir(), "out", "clone.json")}
	for range 2 { // a second run replaces the first
		if err := o.write([]bench.Result{{Scenario: "cold"}, {Scenario: "size"}}); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(o.out)
	if err != nil {
		t.Fatal(err)
	}
	var got []bench.Result
	if err := json.Unmarshal(b, &got); err != nil || len(got) != 2 || got[1].Scenario != "size" {
		t.Errorf("got %v, %v", got, err)
	}
}

// Only what is incorrect fails a run: not a time, not what is not there.
func TestOnlyErrorsFail(t *testing.T) {
	slow := bench.Result{Ratios: []bench.Ratio{{Name: "cold_vs_bare", P50: 9, Must: 1.4}}, Skipped: []string{"no pool"}, Noisy: true}
	if err := incorrect([]bench.Result{slow}); err != nil {
		t.Error(err)
	}
	if err := incorrect([]bench.Result{slow, {Errors: []string{"clone c1: 3 rows"}}}); err == nil {
		t.Error("a wrong row count did not fail the run")
	}
}

// fixed is a scenario whose result is known.
type fixed struct {
	name string
	err  error
}

func (f fixed) Name() string { return f.name }
func (f fixed) Run(context.Context) (bench.Result, error) {
	return bench.Result{Scenario: f.name}, f.err
}

// A scenario that fails loses no results, of others before it or after it, which have a
// daemon that works.
func TestFailureLosesNoResults(t *testing.T) {
	kept, renewed := 0, 0
	o := &options{
		keep:  func(r []bench.Result) error { kept = len(r); return nil },
		renew: func(context.Context) error { renewed++; return nil },
	}
	o.env.Rig = &rig.Rig{}
	failed := errors.New("no")
	results, err := o.measure(t.Context(), []bench.Scenario{fixed{"a", nil}, fixed{"b", failed}, fixed{"c", nil}})
	if len(results) != 3 || !errors.Is(err, failed) || kept != 3 || renewed != 1 {
		t.Errorf("%d results, %d kept, renewed %d times: %v", len(results), kept, renewed, err)
	}
	o.renew = func(context.Context) error { return errors.New("no daemon") }
	results, err = o.measure(t.Context(), []bench.Scenario{fixed{"b", failed}, fixed{"c", nil}})
	if len(results) != 1 || err == nil || kept != 1 {
		t.Errorf("%d results without a daemon: %v", len(results), err)
	}
}
