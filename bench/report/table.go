// Package report writes results for people.
package report

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/ctrsnap/ctrsnap/bench"
)

// Table writes the series, then the ratios with what they must be, then what
// was skipped, noted and incorrect.
func Table(w io.Writer, results []bench.Result) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "SCENARIO\tSERIES\tAT\tGOLDEN\tUNIT\tN\tERRORS\tMIN\tP50\tP90\tP99\tMAX")
	for _, r := range results {
		for _, s := range r.Series {
			s = shown(s)
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\t%s\t%s\n", r.Scenario, s.Name, place(s), s.Golden, s.Unit, s.N, s.Errors,
				number(s.Min), number(s.P50), number(s.P90), number(s.P99), number(s.Max))
		}
	}
	fmt.Fprintln(t)
	fmt.Fprintln(t, "RATIO\tP50\tP99\tMUST\tAIM\tRESULT\tOVER\tUNDER")
	for _, r := range results {
		for _, x := range r.Ratios {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", x.Name, quotient(x.P50), quotient(x.P99),
				limit(x, x.Must), limit(x, x.Aim), verdict(x, r), x.Over, x.Under)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	remarks(w, results)
	return nil
}

// number writes few digits, and as many as matter.
func number(v float64) string {
	switch {
	case v >= 10000:
		return fmt.Sprintf("%.0f", v)
	case v >= 100:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// quotient writes that of a ratio: 0 is one that too few values have.
func quotient(v float64) string {
	if v == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", v)
}

// shown is a series as people read it: bytes are MiB.
func shown(s bench.Series) bench.Series {
	if s.Unit != "bytes" {
		return s
	}
	s.Unit = "MiB"
	for _, v := range []*float64{&s.Min, &s.P1, &s.P50, &s.P90, &s.P99, &s.Max} {
		*v /= 1 << 20
	}
	return s
}

func limit(x bench.Ratio, v float64) string {
	if v == 0 {
		return "-"
	}
	sign := "≤"
	if bench.Limits[x.Name].More {
		sign = "≥"
	}
	return fmt.Sprintf("%s %g", sign, v)
}

// verdict says where a ratio is; it does not say why.
func verdict(x bench.Ratio, r bench.Result) string {
	v := "short"
	switch {
	case x.Must == 0 && x.Aim == 0: // nothing was promised
		v = "-"
	case x.OK():
		v = "ok"
	}
	if r.Quick {
		v += " (quick)"
	}
	if r.Noisy {
		v += " (noisy)"
	}
	return v
}

func remarks(w io.Writer, results []bench.Result) {
	for _, r := range results {
		for _, list := range []struct {
			word  string
			lines []string
		}{{"skipped", r.Skipped}, {"note", r.Notes}, {"error", r.Errors}} {
			for _, line := range list.lines {
				fmt.Fprintf(w, "%s: %s: %s\n", r.Scenario, list.word, strings.ReplaceAll(line, "\n", "\n    "))
			}
		}
		if r.Noisy {
			fmt.Fprintf(w, "%s: noisy: others used %.0f %% of the CPUs before it and %.0f %% after\n",
				r.Scenario, 100*r.Machine.BusyBefore, 100*r.Machine.BusyAfter)
		}
	}
}
