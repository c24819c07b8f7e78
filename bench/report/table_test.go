package report_test

import (
	"strings"
	"testing"

	"github.com/ctrsnap/ctrsnap/bench"
	"github.com/ctrsnap/ctrsnap/bench/report"
)

func TestTable(t *testing.T) {
	results := []bench.Result{{
		Scenario: "cold", Noisy: true, Errors: []string{"clone c1: 3 rows"}, Skipped: []string{"no pool"},
		Series: []bench.Series{{Name: "ctrsnap", Unit: "ms", N: 3, P50: 49.25}, {Name: "own_bytes_per_clone", Unit: "bytes", N: 1, P50: 5 << 19}},
		Ratios: []bench.Ratio{
			{Name: "cold_vs_bare", P50: 2.8, P99: 3, Must: 1.4, Aim: 1.15},
			{Name: "query_tpcb_vs_bare", P50: 0.95, P99: 0.9, Must: 0.9, Aim: 0.98},
			{Name: "plan_claim_p99", P50: 1, P99: 3},
			{Name: "throughput_vs_runc", P50: 2.5},
		},
	}}
	var b strings.Builder
	if err := report.Table(&b, results); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(b.String(), "\n")
	for _, want := range [][]string{
		{"ctrsnap", "49.25"},
		{"own_bytes_per_clone", "MiB", "2.50"},
		{"throughput_vs_runc", "2.50  -"},
		{"cold_vs_bare", "2.80", "≤ 1.4", "short (noisy)"},
		{"query_tpcb_vs_bare", "0.95", "≥ 0.9", "ok (noisy)"},
		{"plan_claim_p99", "3.00", "- (noisy)"},
		{"cold: error: clone c1: 3 rows"}, {"cold: skipped: no pool"}, {"cold: noisy:"},
	} {
		if !hasLine(lines, want) {
			t.Errorf("no line with %q in\n%s", want, b.String())
		}
	}
}

func hasLine(lines, words []string) bool {
	for _, line := range lines {
		all := true
		for _, w := range words {
			all = all && strings.Contains(line, w)
		}
		if all {
			return true
		}
	}
	return false
}
