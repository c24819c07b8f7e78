package report

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"gonum.org/v1/plot/plotter"

	"github.com/ctrsnap/ctrsnap/bench"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// path is the way of a clone, in order: its stages, then what the caller adds.
var path = []string{
	string(api.StagePrepare), string(api.StageNetwork), string(api.StageCreate), string(api.StageStart), string(api.StageReady),
	string(api.StagePersonalise), "api", "query",
}

// Plots draws what the results have values for.
func Plots(results []bench.Result) ([]Plot, error) {
	var plots []Plot
	for _, make := range []func([]bench.Result) (Plot, error){
		byPeer, byStage, clonePath, bySize, byCallers, byClones, diskByClones, byLive, predicted,
	} {
		p, err := make(results)
		if err != nil {
			return nil, err
		}
		if p.SVG != nil {
			plots = append(plots, p)
		}
	}
	return plots, nil
}

// of returns the series of a scenario that a filter lets through.
func of(results []bench.Result, scenario string, want func(bench.Series) bool) (found []bench.Series) {
	for _, r := range results {
		for _, s := range r.Series {
			if r.Scenario == scenario && s.N > 0 && want(s) {
				found = append(found, s)
			}
		}
	}
	return found
}

// picture draws unless there is nothing to be drawn.
func picture(p Plot, x, y axis, all []line) (Plot, error) {
	all = slices.DeleteFunc(all, func(l line) bool { return len(l.points) == 0 })
	if len(all) == 0 {
		return p, nil
	}
	var err error
	p.SVG, err = lines(x, y, all)
	return p, err
}

// byPeer is the distribution of each way to get a database.
func byPeer(results []bench.Result) (Plot, error) {
	var all []line
	found := of(results, "peers", func(s bench.Series) bool { return s.Unit == "ms" && len(s.Samples) > 0 })
	slices.SortStableFunc(found, func(a, b bench.Series) int { return cmp.Compare(a.P50, b.P50) })
	for _, s := range found {
		name := s.Name
		if s.Golden != "app" {
			name += " (" + s.Golden + ")"
		}
		all = append(all, line{name: name, points: cumulated(s.Samples), steps: true})
	}
	return picture(Plot{Name: "peers", Title: "A database with data, until its first answer", Caption: "Part of the databases that had answered by then; the same data and server settings, and the same storage but for docker and podman, who have their own."},
		axis{label: "milliseconds", log: true}, axis{label: "part", zero: true}, all)
}

// byStage is the distribution of each stage of a cold clone.
func byStage(results []bench.Result) (Plot, error) {
	var all []line
	for _, s := range of(results, "cold", func(s bench.Series) bool { return s.Name == "ctrsnap" }) {
		for _, stage := range path {
			if v := s.StageSamples[stage]; len(v) > 0 {
				all = append(all, line{name: stage, points: cumulated(v), steps: true})
			}
		}
		all = append(all, line{name: "whole", points: cumulated(s.Samples), steps: true})
	}
	for _, s := range of(results, "cold", func(s bench.Series) bool { return s.Name == "bare" }) {
		all = append(all, line{name: "bare server", points: cumulated(s.Samples), steps: true})
	}
	return picture(Plot{Name: "stages", Title: "Stages of a cold clone", Caption: "Part of the clones whose stage was over by then; bare is the same server without a container on a plain copy."},
		axis{label: "milliseconds", log: true}, axis{label: "part", zero: true}, all)
}

// clonePath is the waterfall of a cold clone, by medians.
func clonePath(results []bench.Result) (Plot, error) {
	p := Plot{Name: "waterfall", Title: "The path of a cold clone", Caption: "Medians of the stages, one after the other: api is the request's way, query the caller's first answer."}
	found := of(results, "cold", func(s bench.Series) bool { return s.Name == "ctrsnap" && len(s.Stages) > 0 })
	if len(found) == 0 {
		return p, nil
	}
	var bars []bar
	at := 0.0
	for _, stage := range path {
		if ms, ok := found[0].Stages[stage]; ok {
			bars = append(bars, bar{stage, at, ms})
			at += ms
		}
	}
	var err error
	p.SVG, err = waterfall("milliseconds", bars)
	return p, err
}

// bySize is the latency of clones of goldens from small to big.
func bySize(results []bench.Result) (Plot, error) {
	found := of(results, "size", func(s bench.Series) bool { return s.With["golden_bytes"] > 0 })
	return picture(Plot{Name: "size", Title: "Cold clones against the golden's size", Caption: "Until the first answer."},
		axis{label: "golden, MiB", log: true}, axis{label: "milliseconds", zero: true}, quantiles(found, "golden_bytes", 1<<20, 1))
}

// byCallers is the rate of clones, and each one's latency, against callers.
func byCallers(results []bench.Result) (Plot, error) {
	found := of(results, "scale", func(s bench.Series) bool { return s.At["callers"] > 0 && s.Name == "rate" })
	return picture(Plot{Name: "throughput", Title: "Throughput against callers", Caption: "Clones made, asked and destroyed, without a pool; the time until the last is gone counts."},
		axis{label: "callers", log: true}, axis{label: "clones per second", zero: true}, []line{{name: "cold", points: curve(found, "callers", 1, 1, p50)}})
}

// byClones is the memory of idle clones against their number.
func byClones(results []bench.Result) (Plot, error) {
	found := of(results, "density", func(s bench.Series) bool { return s.Name == "memory_used" })
	return picture(Plot{Name: "memory", Title: "Memory against clones", Caption: "By which the memory that the host has available fell, all counted."},
		axis{label: "clones", zero: true}, axis{label: "MiB", zero: true}, []line{{name: "memory", points: curve(found, "clones", 1, 1<<20, p50)}})
}

// diskByClones is the disk of idle clones against their number.
func diskByClones(results []bench.Result) (Plot, error) {
	found := of(results, "density", func(s bench.Series) bool { return s.Name == "disk_used" })
	return picture(Plot{Name: "disk", Title: "Disk against clones", Caption: "What the storage took more."},
		axis{label: "clones", zero: true}, axis{label: "MiB", zero: true}, []line{{name: "disk", points: curve(found, "clones", 1, 1<<20, p50)}})
}

// byLive is what a clone takes beside others.
func byLive(results []bench.Result) (Plot, error) {
	var all []line
	for _, name := range []string{"create", "destroy", "claim"} {
		found := of(results, "scale", func(s bench.Series) bool { return s.Name == name && s.At["live"] > 0 && s.At["again"] == 0 })
		all = append(all, line{name: name + " p50", points: curve(found, "live", 1, 1, p50)})
	}
	return picture(Plot{Name: "live", Title: "Clones beside live clones", Caption: "Medians: cold clone and claim until the first answer, removal until nothing is left."},
		axis{label: "live clones", log: true}, axis{label: "milliseconds", zero: true}, all)
}

// predicted is what the simulation says beside what was measured.
func predicted(results []bench.Result) (Plot, error) {
	var all []line
	named := func(name string) []bench.Series {
		return of(results, "pool", func(s bench.Series) bool { return s.Name == name && len(s.Samples) > 0 })
	}
	for _, s := range named("measured") {
		load := fmt.Sprintf(", pool %g, %.2g/s", s.At["pool"], s.With["rate"])
		all = append(all, line{name: "measured" + load, points: cumulated(s.Samples), steps: true})
		for _, p := range named("predicted") {
			if maps.Equal(p.At, s.At) {
				all = append(all, line{name: "predicted" + load, points: cumulated(p.Samples), steps: true, beside: true})
			}
		}
	}
	return picture(Plot{Name: "pool", Title: "Claims of callers who come at random", Caption: "From when each was to come until he had a clone, beside what the simulation predicts of the same callers."},
		axis{label: "milliseconds", log: true}, axis{label: "part", zero: true}, all)
}

func p50(s bench.Series) float64 { return s.P50 }
func p99(s bench.Series) float64 { return s.P99 }

// quantiles are the curves of the median and the 99th percentile.
func quantiles(found []bench.Series, at string, x, y float64) []line {
	return []line{{name: "p50", points: curve(found, at, x, y, p50)}, {name: "p99", points: curve(found, at, x, y, p99)}}
}

// curve is one value of each series against where it was measured, in units of x and y.
func curve(found []bench.Series, at string, x, y float64, value func(bench.Series) float64) plotter.XYs {
	points := map[float64]float64{}
	for _, s := range found {
		where, chosen := s.At[at]
		if !chosen {
			where = s.With[at]
		}
		points[where/x] = value(s) / y
	}
	var xys plotter.XYs
	for _, k := range slices.Sorted(maps.Keys(points)) {
		xys = append(xys, plotter.XY{X: positive(k), Y: points[k]})
	}
	return xys
}
