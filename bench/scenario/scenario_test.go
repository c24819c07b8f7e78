package scenario

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ctrsnap/ctrsnap/bench/peer"
	"github.com/ctrsnap/ctrsnap/bench/recorder"
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
