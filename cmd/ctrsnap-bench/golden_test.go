package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ctrsnap/ctrsnap/bench/plan"
	"github.com/ctrsnap/ctrsnap/bench/report"
	"github.com/ctrsnap/ctrsnap/bench/rig"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

// programs is where those under test are: what `make test` built.
func programs(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("CTRSNAP_TEST_BIN")
	if dir == "" {
		dir = "../../bin"
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// daemon is one that runs, with a golden "mine" that no scenario has built and a pool of it.
func daemon(t *testing.T) *rig.Rig {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	r, err := rig.New(programs(t), "/var/tmp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
	if err := r.Start(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	base, script := "--from-host", filepath.Join(t.TempDir(), "mine.sql")
	if prefix := os.Getenv("CTRSNAP_TEST_POSTGRES"); prefix != "" {
		base += "=" + prefix
	}
	if err := os.WriteFile(script, []byte("CREATE TABLE mine (n int)"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"golden", "build", "mine", base, "--init", script, "--quiet"}, {"pool", "set", "mine", "--size", "1"}} {
		if _, err := r.CLI(t.Context(), args...); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// A golden of the user's own is measured where it is, and planned with; it and its pool stay.
func TestGoldenOfTheUsersOwn(t *testing.T) {
	r, dir := daemon(t), t.TempDir()
	at := []string{"--bin", programs(t), "--host", "unix://" + filepath.Join(r.State(), "ctrsnap.sock"), "--config", filepath.Join(r.Work(), "ctrsnapd.toml")}
	args := append([]string{"pool", "--golden", "mine", "--quick", "--clones", "10", "--span", "1s", "--save", dir}, at...)
	if out, err := run(t, append(args, "density", "cold", "claim", "size")...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	results, err := report.Read(filepath.Join(dir, report.Results))
	if err != nil || len(results) != 6 {
		t.Fatalf("%d results, %v", len(results), err)
	}
	for _, res := range results {
		if res.Golden != "mine" || len(res.Errors) > 0 || len(res.Series) == 0 != (res.Scenario == "size") {
			t.Errorf("%s of golden %q: %d series, skipped %q, errors %q", res.Scenario, res.Golden, len(res.Series), res.Skipped, res.Errors)
		}
		for _, s := range res.Series {
			if s.Golden != "mine" && s.Golden != "" || s.Errors > 0 {
				t.Errorf("%s: %+v", res.Scenario, s)
			}
		}
	}
	if pools, err := client.Do(t.Context(), r.Client(), api.ListPools, api.None{}); err != nil || len(pools) != 1 || pools[0].Size == nil || *pools[0].Size != 1 {
		t.Errorf("pools are %+v, %v", pools, err)
	}
	if left, err := client.Do(t.Context(), r.Client(), api.ListClones, api.ListClonesArgs{}); err != nil || len(left) > 0 {
		t.Errorf("clones are left: %+v, %v", left, err)
	}
	out, err := run(t, "plan", "--golden", "mine", "--from", dir, "--tests-per-day", "500", "--lifetime", "1s", "-o", "json")
	var a plan.Answer
	if err != nil && !strings.Contains(textOf(t, dir), "MemAvailable did not fall") || err == nil && (json.Unmarshal([]byte(out), &a) != nil || a.Runners != 1) {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err := run(t, append([]string{"cold", "--golden", "none"}, at...)...); err == nil || !strings.Contains(err.Error(), "golden none") {
		t.Errorf("got %v", err)
	}
}
