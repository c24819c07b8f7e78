package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ctrsnap/ctrsnap/bench"
	"github.com/ctrsnap/ctrsnap/bench/plan"
	"github.com/ctrsnap/ctrsnap/bench/report"
)

// TestScenarios holds the names that the command line promises.
func TestScenarios(t *testing.T) {
	commands := command()
	for _, name := range strings.Fields("claim cold size throughput destroy firstwrite query density scale pool network peers all clone compare plan") {
		c := commands.Command(name)
		if c == nil || c.Usage == "" {
			t.Errorf("no command %s, or it says nothing about itself", name)
		}
	}
}

// run runs the command line and returns what it printed.
func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	old := os.Stdout
	os.Stdout = w
	defer func() { os.Stdout = old }()
	out := make(chan string)
	go func() {
		b, _ := io.ReadAll(r)
		out <- string(b)
	}()
	err = command().Run(t.Context(), append([]string{"ctrsnap-bench"}, args...))
	w.Close()
	return <-out, err
}

// recording is a run of pool and density on a machine with two CPUs.
func recording(t *testing.T, makeMS float64) string {
	t.Helper()
	m := bench.Machine{Kernel: "6.1", CPU: "cpu", CPUs: 2, MemoryBytes: 8 << 30, Filesystem: "xfs", StorageFree: 50 << 30}
	series := func(name, unit string, v float64) bench.Series {
		s := bench.Series{Name: name, Golden: "app", Unit: unit, Min: v, P1: v, P50: v, P90: v, P99: v, Max: v}
		for i := range 20 {
			s.Samples = append(s.Samples, v*(1+float64(i)/1000))
		}
		s.N, s.Max = 20, s.Samples[19]
		return s
	}
	result := func(name string, all ...bench.Series) bench.Result {
		return bench.Result{Schema: bench.Schema, Scenario: name, Started: time.Unix(1e9, 0), Machine: m, Ratios: []bench.Ratio{}, Series: all}
	}
	results := []bench.Result{
		result("pool", series("hit", "ms", 3), series("make", "ms", makeMS), series("remove", "ms", 20),
			series("hit_cpu", "ms", 2), series("make_cpu", "ms", 60), series("remove_cpu", "ms", 15)),
		result("density", series("answering_per_gib", "1/GiB", 80), series("disk_bytes_per_clone", "bytes", 1<<20)),
	}
	dir := t.TempDir()
	var b bytes.Buffer
	if err := report.JSON(&b, results); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, report.Results), b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestPlanFromRunsAndFromAMachine(t *testing.T) {
	profile := filepath.Join(t.TempDir(), "machine.json")
	load := []string{"--tests-per-day", "50000", "--lifetime", "20s", "--written", "5MiB", "-o", "json"}
	fromRuns, err := run(t, append([]string{"plan", "--from", recording(t, 50), "--save", profile}, load...)...)
	if err != nil {
		t.Fatal(err)
	}
	var a plan.Answer
	if err := json.Unmarshal([]byte(fromRuns), &a); err != nil || a.Schema != plan.Schema || a.Runners != 1 || a.Pool < 1 || len(a.Resources) != 5 {
		t.Errorf("got %+v, %v", a, err)
	}
	elsewhere, err := run(t, append([]string{"plan", "--machine", profile}, load...)...)
	if err != nil || elsewhere != fromRuns {
		t.Errorf("%v: from the machine's profile:\n%s\nfrom runs:\n%s", err, elsewhere, fromRuns)
	}
	text, err := run(t, "plan", "--machine", profile, "--tests-per-day", "50000", "--lifetime", "20s")
	if err != nil || !strings.Contains(text, "50000 tests a day / 86,400 s × 3 = 1.74 per second") || !strings.Contains(text, "What runs out first is ") {
		t.Errorf("%v:\n%s", err, text)
	}
}

func TestPlanSaysWhatIsMissing(t *testing.T) {
	for want, args := range map[string][]string{
		"ctrsnap bench pool density": {"--from", filepath.Join(t.TempDir(), "none.json"), "--tests-per-day", "5", "--lifetime", "1s"},
		"tests per day, or a trace":  {"--from", recording(t, 50)},
		"no lifetime":                {"--from", recording(t, 50), "--tests-per-day", "5"},
		"invalid size":               {"--from", recording(t, 50), "--tests-per-day", "5", "--lifetime", "1s", "--written", "x"},
		"unknown output":             {"-o", "xml"},
	} {
		if out, err := run(t, append([]string{"plan"}, args...)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v\n%s", args, err, out)
		}
	}
}

func TestCompare(t *testing.T) {
	old, slow := recording(t, 50), recording(t, 80)
	out, err := run(t, "compare", old, filepath.Join(slow, report.Results))
	if err != nil || !strings.Contains(out, "1 worse, 0 better") || !strings.Contains(out, "+60.0 %") {
		t.Errorf("%v:\n%s", err, out)
	}
	if _, err := run(t, "compare", "--fail", old, slow); err == nil {
		t.Error("--fail does not fail")
	}
	if _, err := run(t, "compare", "--fail", slow, old); err != nil {
		t.Error(err)
	}
	if _, err := run(t, "compare", old); err == nil {
		t.Error("one run was compared")
	}
}

// A format that nobody knows is refused before anything runs.
func TestUnknownOutputIsRefused(t *testing.T) {
	if _, err := run(t, "cold", "-o", "xml"); err == nil || !strings.Contains(err.Error(), "unknown output") {
		t.Errorf("got %v", err)
	}
}

// What cannot be meant is refused before anything runs, as ctrsnap refuses it.
func TestWrongInput(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good, broken, other := recording(t, 50), write("broken", "{"), write("other", `{"schema":9,"scenario":"cold"}`)
	lonely := strings.ReplaceAll(textOf(t, good), `"name": "`, `"name": "x`)
	machine, trace := filepath.Join(dir, "machine.json"), write("trace", "5 1\n3 1\n")
	if _, err := run(t, "plan", "--from", good, "--save", machine); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"nosuch", 2, "the scenarios are cold size"},
		{"cold nosuch", 2, "the scenarios are"},
		{"cold --nosuch", 2, "unknown flag --nosuch"},
		{"cold --quik", 2, "did you mean --quick?"},
		{"cold --golden x:3", 2, "a name without a version"},
		{"cold --golden=", 2, "--golden: invalid name"},
		{"plan --golden= --tests-per-day 4 --lifetime 1s --from " + good, 2, "--golden: invalid name"},
		{"cold --golden x --engine redis", 2, "--golden is one that is there"},
		{"all cold", 2, "all are all"},
		{"cold -o xml", 2, "want table, json"},
		{"cold --span -3s", 2, "--span cannot be negative"},
		{"density --clones -5", 2, "--clones cannot be negative"},
		{"density --clones 0", 2, "--clones must be more than 0"},
		{"cold --clones x", 2, "invalid"},
		{"cold --budget 0s", 2, "--budget must be more than 0"},
		{"cold --postgres " + dir, 2, "bin/postgres"},
		{"peers --from-host " + dir, 2, "--pg18: "},
		{"cold --daemon x", 2, "TABLE.KEY=VALUE"},
		{"compare " + good, 2, "two arguments"},
		{"compare " + good + " " + dir + "/none", 3, "no such file"},
		{"compare " + good + " " + broken, 1, "unexpected end"},
		{"compare " + good + " " + other, 1, "schema is 9, this program reads 1"},
		{"compare " + good + " " + write("lonely", lonely), 1, "no series in common"},
		{"plan x", 2, "unexpected argument"},
		{"plan --tests-per-day 4 --lifetime 1s --peak 0.5 --from " + good, 2, "--peak must be at least 1"},
		{"plan --tests-per-day 4 --lifetime 1s --peak 0 --from " + good, 2, "--peak must be at least 1"},
		{"plan --tests-per-day 4 --lifetime 1s --refill 0 --from " + good, 2, "--refill must be more than 0"},
		{"plan --tests-per-day 0.001 --lifetime 1s --from " + good, 2, "less than one test a day"},
		{"plan --tests-per-day 4 --lifetime 1s --test-cpus 50 --from " + good, 5, "keeps 50 processors busy, a runner has 2"},
		{"plan --tests-per-day 4 --arrivals " + trace + " --from " + good, 2, "--arrivals is in place of --tests-per-day"},
		{"plan --tests-per-day 4 --lifetime 1s --machine " + machine + " --from " + good, 2, "--machine is in place of --from"},
		{"plan --arrivals " + write("empty", "# none\n") + " --from " + good, 1, "no arrivals"},
		{"plan --arrivals " + trace + ".none --from " + good, 3, "no such file"},
		{"plan --tests-per-day 4 --lifetime 1s --golden shop --from " + good, 1, "ctrsnap bench pool density --golden shop --save"},
		{"plan --tests-per-day 4 --lifetime 1s --golden shop --machine " + machine, 2, "golden app, not shop"},
		{"plan --tests-per-day -4 --lifetime 1s --from " + good, 2, "--tests-per-day cannot be negative"},
		{"plan --tests-per-day 4 --lifetime 1s --refill -4 --from " + good, 2, "--refill cannot be negative"},
		{"plan --tests-per-day 4 --from " + good, 2, "no lifetime"},
		{"plan --tests-per-day 4 --lifetime 1s --written -4MiB --from " + good, 2, "--written: invalid size"},
		{"plan --tests-per-day 4 --lifetime 1s --test-memory 900GiB --from " + good, 5, ""},
		{"plan --tests-per-day 4 --lifetime 1s --from " + dir + "/none", 3, "ctrsnap bench pool density"},
		{"plan --tests-per-day 4 --lifetime 1s --machine " + other, 1, "schema 9"},
	} {
		_, err := run(t, strings.Fields(c.args)...)
		var b strings.Builder
		if err == nil {
			t.Errorf("%s: accepted", c.args)
		} else if code := printError(&b, err); code != c.code || !strings.Contains(b.String(), c.want) {
			t.Errorf("%s: exit code %d, want %d: %s", c.args, code, c.code, b.String())
		}
	}
}

// textOf is that of a recording.
func textOf(t *testing.T, dir string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, report.Results))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
