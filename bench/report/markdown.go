package report

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/ctrsnap/ctrsnap/bench"
)

// Markdown writes a report for people: the machine, the ratios, and the series of each
// scenario.
func Markdown(w io.Writer, results []bench.Result) error {
	b := &strings.Builder{}
	b.WriteString("# ctrsnap: benchmark\n\n")
	for _, line := range Summary(results) {
		fmt.Fprintf(b, "- %s\n", line)
	}
	b.WriteString("\n")
	writeRatios(b, results)
	for _, r := range results {
		fmt.Fprintf(b, "\n## %s%s\n\n", r.Scenario, marks(r))
		writeSeries(b, r)
		remarks(&bullets{b}, []bench.Result{r})
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Summary describes the machine and the run in a few lines.
func Summary(results []bench.Result) []string {
	if len(results) == 0 {
		return nil
	}
	m, first := results[0].Machine, results[0].Started
	seconds := 0.0
	versions := map[string]string{}
	for _, r := range results {
		seconds += r.Seconds
		maps.Copy(versions, r.Machine.Versions)
	}
	reflink := "no reflinks"
	if m.Reflink {
		reflink = "reflinks"
	}
	return []string{
		fmt.Sprintf("%s, %d CPUs, %.0f GiB of memory", m.CPU, m.CPUs, float64(m.MemoryBytes)/(1<<30)),
		fmt.Sprintf("%s, Linux %s, storage %s with %s", m.OS, m.Kernel, m.Filesystem, reflink),
		strings.Join(programs(versions), ", "),
		fmt.Sprintf("begun %s, %.0f s", first.Format("2006-01-02 15:04 MST"), seconds),
	}
}

// programs lists versions by program, and of an engine once for all goldens that have it: their
// keys are "ENGINE for GOLDEN".
func programs(versions map[string]string) []string {
	goldens := map[string][]string{}
	for _, k := range slices.Sorted(maps.Keys(versions)) {
		program, golden, _ := strings.Cut(k, " for ")
		program += " " + versions[k]
		goldens[program] = append(goldens[program], golden)
	}
	var all []string
	for _, program := range slices.Sorted(maps.Keys(goldens)) {
		if of := strings.Join(goldens[program], " "); of != "" {
			program += " (" + of + ")"
		}
		all = append(all, program)
	}
	return all
}

func writeRatios(b *strings.Builder, results []bench.Result) {
	b.WriteString("| ratio | p50 | p99 | must | aim | result | over | under |\n|---|--:|--:|--:|--:|---|---|---|\n")
	for _, r := range results {
		for _, x := range r.Ratios {
			fmt.Fprintf(b, "| `%s` | %s | %s | %s | %s | %s | %s | %s |\n", x.Name, quotient(x.P50), quotient(x.P99),
				limit(x, x.Must), limit(x, x.Aim), verdict(x, r), x.Over, x.Under)
		}
	}
}

func writeSeries(b *strings.Builder, r bench.Result) {
	if len(r.Series) == 0 {
		return
	}
	b.WriteString("| series | at | golden | unit | n | errors | p50 | p90 | p99 | max |\n|---|---|---|---|--:|--:|--:|--:|--:|--:|\n")
	for _, s := range r.Series {
		s = shown(s)
		fmt.Fprintf(b, "| %s | %s | %s | %s | %d | %d | %s | %s | %s | %s |\n", s.Name, place(s), s.Golden, s.Unit, s.N, s.Errors,
			number(s.P50), number(s.P90), number(s.P99), number(s.Max))
	}
	b.WriteString("\n")
}

// place says where a series was measured, and then with which figures of the run.
func place(s bench.Series) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(s.At)) {
		parts = append(parts, fmt.Sprintf("%s=%.6g", k, s.At[k])) // 100000 in full
	}
	for _, k := range slices.Sorted(maps.Keys(s.With)) {
		if name, ok := strings.CutSuffix(k, "_bytes"); ok {
			parts = append(parts, fmt.Sprintf("%s=%.0fMiB", name, s.With[k]/(1<<20)))
			continue
		}
		parts = append(parts, fmt.Sprintf("%s=%.4g", k, s.With[k]))
	}
	return strings.Join(parts, " ")
}

func marks(r bench.Result) string {
	s := ""
	if r.Quick {
		s += " (quick)"
	}
	if r.Noisy {
		s += " (noisy)"
	}
	return s
}

// bullets makes each line an item of a list.
type bullets struct{ b *strings.Builder }

// Write implements [io.Writer].
func (w *bullets) Write(p []byte) (int, error) {
	w.b.WriteString("- ")
	return w.b.Write(p)
}
