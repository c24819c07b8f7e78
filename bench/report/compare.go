package report

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/ctrsnap/ctrsnap/bench"
	"github.com/ctrsnap/ctrsnap/bench/stat"
)

// Changed is how one series has changed between two runs.
type Changed struct {
	Scenario string
	Series   bench.Series // the new one
	stat.Change
}

// Changes compares the series that two runs have in common.
func Changes(old, new []bench.Result) []Changed {
	before := map[[2]string]bench.Series{}
	for _, r := range old {
		for _, s := range r.Series {
			before[[2]string{r.Golden, benchName(r.Scenario, s)}] = s
		}
	}
	var all []Changed
	for _, r := range new {
		for _, s := range r.Series {
			if b, ok := before[[2]string{r.Golden, benchName(r.Scenario, s)}]; ok && b.Unit == s.Unit {
				all = append(all, Changed{r.Scenario, s, stat.Compare(b.Samples, s.Samples, s.More())})
			}
		}
	}
	return all
}

// Comparison writes what has become worse and better, and returns how many series
// have become worse.
func Comparison(w io.Writer, old, new []bench.Result) (worse int, err error) {
	counts := map[stat.Verdict]int{}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "SCENARIO\tSERIES\tAT\tGOLDEN\tUNIT\tOLD\tNEW\tCHANGE\tP\tVERDICT")
	for _, c := range Changes(old, new) {
		counts[c.Verdict]++
		if c.Verdict != stat.Worse && c.Verdict != stat.Better {
			continue
		}
		was, is := shown(bench.Series{Unit: c.Series.Unit, P50: c.Old}), shown(bench.Series{Unit: c.Series.Unit, P50: c.New})
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%+.1f %%\t%.2g\t%s\n", c.Scenario, c.Series.Name, place(c.Series), c.Series.Golden, is.Unit,
			number(was.P50), number(is.P50), 100*c.Delta, c.P, c.Verdict)
	}
	if err := t.Flush(); err != nil {
		return 0, err
	}
	fmt.Fprintf(w, "\n%d worse, %d better, %d the same, %d with too few values (Mann-Whitney, P < %g)\n",
		counts[stat.Worse], counts[stat.Better], counts[stat.Same], counts[stat.Unknown], stat.Alpha)
	for _, warning := range differences(old, new) {
		fmt.Fprintln(w, "warning:", warning)
	}
	return counts[stat.Worse], nil
}

// differences are what makes two runs hard to compare.
func differences(old, new []bench.Result) (warnings []string) {
	for i, run := range [][]bench.Result{old, new} {
		for _, r := range run {
			if r.Noisy {
				warnings = append(warnings, fmt.Sprintf("%s of the %s run is noisy: others used the machine", r.Scenario, []string{"old", "new"}[i]))
			}
		}
	}
	if len(old) > 0 && len(new) > 0 {
		a, b := old[0].Machine, new[0].Machine
		for what, pair := range map[string][2]any{"CPU": {a.CPU, b.CPU}, "number of CPUs": {a.CPUs, b.CPUs}, "kernel": {a.Kernel, b.Kernel}, "filesystem": {a.Filesystem, b.Filesystem}, "size of the goldens": {old[0].Quick, new[0].Quick}} {
			if pair[0] != pair[1] {
				warnings = append(warnings, fmt.Sprintf("%s differs: %v and %v", what, pair[0], pair[1]))
			}
		}
	}
	return warnings
}
