package report

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/ctrsnap/ctrsnap/bench"
)

// Gobench writes each value as a line of Go's benchmark format, which benchstat
// reads: see https://go.dev/design/14313-benchmark-format.
func Gobench(w io.Writer, results []bench.Result) error {
	for i, r := range results {
		if i == 0 {
			fmt.Fprintf(w, "goos: linux\ngoarch: %s\npkg: ctrsnap\ncpu: %s\n", r.Machine.Arch, r.Machine.CPU)
		}
		for _, s := range r.Series {
			for _, v := range s.Samples {
				if _, err := fmt.Fprintln(w, "Benchmark"+benchName(r.Scenario, s), 1, goValue(v, s.Unit)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// benchName is that of a series, with where it was measured as sub-benchmarks.
func benchName(scenario string, s bench.Series) string {
	parts := []string{strings.ToUpper(scenario[:1]) + scenario[1:], s.Name}
	if s.Golden != "" {
		parts = append(parts, "golden="+s.Golden)
	}
	for _, k := range slices.Sorted(maps.Keys(s.At)) {
		parts = append(parts, fmt.Sprintf("%s=%.4g", k, s.At[k]))
	}
	return strings.ReplaceAll(strings.Join(parts, "/"), " ", "_")
}

// goValue writes durations in ns/op, as Go's own benchmarks are, and others with
// their unit. benchstat takes more of a unit "/s" for better.
func goValue(v float64, unit string) string {
	switch unit {
	case "ms":
		return fmt.Sprintf("%.0f ns/op", v*1e6)
	case "bytes":
		return fmt.Sprintf("%.0f B", v)
	}
	if rest, ok := strings.CutPrefix(unit, "1/"); ok {
		return fmt.Sprintf("%g n/%s", v, strings.ReplaceAll(rest, " ", "-"))
	}
	return fmt.Sprintf("%g %s", v, strings.ReplaceAll(unit, " ", "-"))
}
