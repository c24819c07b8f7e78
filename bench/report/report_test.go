package report_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ctrsnap/ctrsnap/bench"
	"github.com/ctrsnap/ctrsnap/bench/recorder"
	"github.com/ctrsnap/ctrsnap/bench/report"
)

// series has n values around mean.
func series(seed uint64, name, golden, unit string, mean float64, n int) *recorder.Recorder {
	r, source := recorder.New(name, golden, unit), rand.New(rand.NewPCG(seed, 1))
	for range n {
		v := mean * (0.9 + 0.2*source.Float64())
		r.Add(v)
		if name == "ctrsnap" {
			r.AddStage("prepare", v/4)
			r.AddStage("ready", v/2)
		}
	}
	return r
}

// run is a whole run in which all takes factor times as long.
func run(seed uint64, factor float64) []bench.Result {
	m := bench.Machine{Arch: "amd64", Kernel: "6.1", CPU: "a <cpu>", CPUs: 2, MemoryBytes: 8 << 30, Filesystem: "xfs", Reflink: true, Versions: map[string]string{"postgres": "15"}}
	result := func(name string, all ...*recorder.Recorder) bench.Result {
		r := bench.Result{Schema: bench.Schema, Scenario: name, Started: time.Unix(1e9, 0).UTC(), Machine: m, Ratios: []bench.Ratio{}, Series: []bench.Series{}}
		for _, s := range all {
			r.Series = append(r.Series, s.Series())
		}
		return r
	}
	cold := result("cold", series(seed, "ctrsnap", "shop", "ms", 50*factor, 60), series(seed+1, "bare", "shop", "ms", 40, 60))
	ratio, _ := bench.Compare("cold_vs_bare", cold.Series[0], cold.Series[1])
	cold.Ratios = append(cold.Ratios, ratio)
	cold.Notes = []string{"5 < 6"}
	return []bench.Result{
		cold,
		result("peers", series(seed+2, "ctrsnap", "app", "ms", 50*factor, 30), series(seed+3, "pg_restore", "app", "ms", 900, 9)),
		result("size", series(seed, "big", "big", "ms", 50, 9).With("golden_bytes", 5<<30*factor), series(seed, "small", "small", "ms", 50, 9).With("golden_bytes", 50<<20)),
		result("scale", series(seed, "rate", "app", "1/s", 20/factor, 1).At("callers", 1), series(seed, "rate", "app", "1/s", 30/factor, 1).At("callers", 4),
			series(seed, "create", "app", "ms", 50, 9).At("live", 1), series(seed, "create", "app", "ms", 55, 9).At("live", 100)),
		result("density", series(seed, "memory_used", "app", "bytes", 5e8, 1).At("clones", 50), series(seed, "disk_used", "app", "bytes", 5e7, 1).At("clones", 50)),
		result("pool", series(seed, "measured", "app", "ms", 5, 9).At("pool", 4).At("load", 0.5).With("rate", 10/factor), series(seed, "predicted", "app", "ms", 5, 9).At("pool", 4).At("load", 0.5).With("rate", 10/factor)),
	}
}

func TestSaveWritesAllReports(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	want := run(1, 1)
	if err := report.Save(dir, want); err != nil {
		t.Fatal(err)
	}
	got, err := report.Read(filepath.Join(dir, report.Results))
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	for _, name := range []string{"peers", "stages", "waterfall", "size", "throughput", "memory", "disk", "live", "pool"} {
		b, err := os.ReadFile(filepath.Join(dir, name+".svg"))
		if err != nil {
			t.Error(err)
			continue
		}
		wellFormed(t, name, b)
		if bytes.Contains(b, []byte("NaN")) || bytes.Contains(b, []byte("Inf")) {
			t.Errorf("%s has coordinates that are no numbers", name)
		}
	}
	page, err := os.ReadFile(filepath.Join(dir, "report.html"))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(page), "<svg"); n != 9 {
		t.Errorf("the page has %d pictures", n)
	}
	outside := regexp.MustCompile(`(src|href|url\()\s*=?\s*["']?(https?:)?//`)
	if m := outside.FindString(string(page)); m != "" || strings.Contains(string(page), "<script") || strings.Contains(string(page), "<link") {
		t.Errorf("the page needs something else: %s", m)
	}
	if !strings.Contains(string(page), "a &lt;cpu&gt;") {
		t.Error("text is not escaped")
	}
}

func wellFormed(t *testing.T, name string, b []byte) {
	t.Helper()
	for d := xml.NewDecoder(bytes.NewReader(b)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
	}
}

func TestOneResultIsAnObject(t *testing.T) {
	var b bytes.Buffer
	if err := report.JSON(&b, run(1, 1)[:1]); err != nil || !strings.HasPrefix(b.String(), "{") {
		t.Errorf("%v: %.40s", err, b.String())
	}
	file := filepath.Join(t.TempDir(), "one.json")
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := report.Read(file); err != nil || len(got) != 1 || got[0].Scenario != "cold" {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestGobench(t *testing.T) {
	var b strings.Builder
	if err := report.Gobench(&b, run(1, 1)); err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`^(goos|goarch|pkg|cpu): .*$|^Benchmark[A-Z][A-Za-z]*/\S+ 1 [0-9.e+]+ (ns/op|B|n/\S+)$`)
	for l := range strings.Lines(b.String()) {
		if !line.MatchString(strings.TrimSpace(l)) {
			t.Errorf("no line for benchstat: %q", l)
		}
	}
	if n := strings.Count(b.String(), "BenchmarkCold/ctrsnap/golden=shop 1 "); n != 60 {
		t.Errorf("%d values of 60", n)
	}
}

func TestMarkdown(t *testing.T) {
	var b strings.Builder
	if err := report.Markdown(&b, run(1, 1)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| `cold_vs_bare` | 1.", "## peers", "- a <cpu>, 2 CPUs, 8 GiB", "| rate | callers=4 | app | 1/s |", "- cold: note: 5 < 6"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

func TestComparison(t *testing.T) {
	var b strings.Builder
	worse, err := report.Comparison(&b, run(1, 1), run(50, 1.5))
	if err != nil || worse != 2 || !strings.Contains(b.String(), "2 worse, 0 better") || !regexp.MustCompile(`cold +ctrsnap +shop +ms .* worse`).MatchString(b.String()) {
		t.Errorf("%d, %v:\n%s", worse, err, b.String())
	}
	b.Reset()
	if worse, err = report.Comparison(&b, run(1, 1), run(50, 1)); err != nil || worse != 0 {
		t.Errorf("%d, %v:\n%s", worse, err, b.String())
	}
	noisy := run(50, 1)
	noisy[0].Noisy, noisy[0].Machine.CPUs = true, 8
	b.Reset()
	if _, err = report.Comparison(&b, run(1, 1), noisy); err != nil || strings.Count(b.String(), "warning: ") != 2 {
		t.Errorf("%v:\n%s", err, b.String())
	}
}

func TestValidate(t *testing.T) {
	if err := report.Validate(run(1, 1)); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*bench.Result){
		"schema":     func(r *bench.Result) { r.Schema = 2 },
		"series":     func(r *bench.Result) { r.Series = nil },
		"order":      func(r *bench.Result) { r.Series[0].P50 = r.Series[0].P90 + 1 },
		"no values":  func(r *bench.Result) { r.Series[0] = bench.Series{Name: "x", Unit: "ms"} },
		"ratio":      func(r *bench.Result) { r.Ratios[0].Name = "cold_vs_nothing" },
		"limit":      func(r *bench.Result) { r.Ratios[0].Must = 9 },
		"machine":    func(r *bench.Result) { r.Machine.Kernel = "" },
		"noise":      func(r *bench.Result) { r.Noisy = true },
		"no start":   func(r *bench.Result) { r.Started = time.Time{} },
		"name":       func(r *bench.Result) { r.Scenario = "" },
		"zero ratio": func(r *bench.Result) { r.Ratios[0].P50 = 0 },
	} {
		r := run(1, 1)
		spoil(&r[0])
		if report.Validate(r) == nil {
			t.Errorf("%s: nothing was found", name)
		}
	}
	if report.Validate(nil) == nil {
		t.Error("no results are valid")
	}
}

func TestProgramsAreNamedOnce(t *testing.T) {
	got := report.Summary([]bench.Result{{Machine: bench.Machine{Versions: map[string]string{"ctrsnap": "1.0", "postgres for app": "15.18"}}},
		{Machine: bench.Machine{Versions: map[string]string{"postgres for shop": "15.18", "postgres for shop18": "18.4"}}}})
	if want := "ctrsnap 1.0, postgres 15.18 (app shop), postgres 18.4 (shop18)"; got[2] != want {
		t.Errorf("got %q, want %q", got[2], want)
	}
}
