package plan

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// Text writes an answer for people, with the arithmetic.
func Text(w io.Writer, p Profile, l Load, a Answer) error {
	m := p.Machine
	runners, clones := "runners, each", "clones"
	if a.Runners == 1 {
		runners = "runner"
	}
	if a.Pool == 1 {
		clones = "clone"
	}
	fmt.Fprintf(w, "%d %s with %d CPUs, %.0f GiB of memory and a pool of %d %s of %s.\n", a.Runners, runners, m.CPUs, gib(float64(m.MemoryBytes)), a.Pool, clones, p.Golden)
	fmt.Fprintf(w, "What runs out first is %s.\n\n", a.First)
	fmt.Fprintf(w, "load at peak   %s\n", l.describe(a))
	fmt.Fprintf(w, "live clones    %s = %.3g, on each runner %.3g + %d that wait, of %d that fit\n",
		l.alive(a), a.Live, a.Live/float64(a.Runners), a.Pool, a.Clones)
	fmt.Fprintf(w, "claims         p50 %.1f ms, p90 %.1f ms, p99 %.1f ms; %.2f %% find a clone that waits (simulated: %d claims)\n",
		a.Claims["p50"], a.Claims["p90"], a.Claims["p99"], 100*a.Hits, tries*simulated)
	fmt.Fprintf(w, "processors     %.0f %% busy\n\n", 100*a.Busy)
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "RESOURCE\tUSED\tA RUNNER CARRIES\tBECAUSE")
	for _, r := range a.Resources {
		fmt.Fprintf(t, "%s\t%.0f %%\t%s %s\t%s\n", r.Name, 100*r.Used, short(r.Limit), r.Unit, r.Why)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, n := range a.Notes {
		fmt.Fprintf(w, "note: %s\n", n)
	}
	return nil
}

// short writes as many digits as matter.
func short(v float64) string {
	if v >= 100 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

// alive is the arithmetic of the live clones.
func (l Load) alive(a Answer) string {
	if a.Live < a.Rate*a.life {
		return "all of the trace"
	}
	return fmt.Sprintf("%.3g per second × %.3g s", a.Rate, a.life)
}

func (l Load) describe(a Answer) string {
	if len(l.Trace) > 0 {
		return fmt.Sprintf("%.3g tests per second in the busiest hour of a trace of %d", a.Rate, len(l.Trace))
	}
	return fmt.Sprintf("%.0f tests a day / 86,400 s × %.3g = %.3g per second", l.PerDay, max(l.Peak, 1), l.PerDay/day*max(l.Peak, 1))
}
