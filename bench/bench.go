// Package bench is the contract of the benchmarks: what a scenario is, and the
// JSON in which its result is written. It does no I/O.
//
// The packages below: recorder makes series, load makes requests at chosen times,
// machine describes where a run happened, rig is the daemon that is measured, peer holds
// what ctrsnap is compared with, scenario the scenarios, stat and report say what was
// found, sim and plan what follows from it.
package bench

import (
	"context"
	"strings"
	"time"
)

// Schema is the value of every result's "schema" field.
const Schema = 1

// Scenario is one question, answered by measuring.
type Scenario interface {
	// Name is the result's "scenario".
	Name() string
	// Run measures. What was incorrect (a clone that did not answer, a wrong
	// row count) goes into the result's Errors and the series' counts; the error
	// says that the scenario could not go on. The result is valid with both.
	Run(ctx context.Context) (Result, error)
}

// Result is what one scenario has found. Fields are added, never renamed.
type Result struct {
	Schema   int    `json:"schema"`
	Scenario string `json:"scenario"`
	// Golden is the user's own that was measured; "": those that the run built.
	Golden  string    `json:"golden,omitempty"`
	Quick   bool      `json:"quick"` // smoke run: too few values to rely on
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"` // how long it took
	Machine Machine   `json:"machine"`
	Noisy   bool      `json:"noisy"` // others used the machine: see Machine
	Series  []Series  `json:"series"`
	Ratios  []Ratio   `json:"ratios"`
	// Skipped says why nothing, or a part, was measured: what is not there is
	// never estimated.
	Skipped []string `json:"skipped,omitempty"`
	// Errors are what was incorrect.
	Errors []string `json:"errors,omitempty"`
	// Notes are what a reader must know to understand the figures.
	Notes []string `json:"notes,omitempty"`
}

// Series is the distribution of one measured quantity.
type Series struct {
	Name   string  `json:"name"`
	Golden string  `json:"golden,omitempty"`
	Unit   string  `json:"unit"` // ms, 1/s, bytes, 1/GiB
	N      int64   `json:"n"`
	Errors int64   `json:"errors"` // attempts that gave no value, or were incorrect
	Min    float64 `json:"min"`
	P1     float64 `json:"p1"` // the bad end where more is better
	P50    float64 `json:"p50"`
	P90    float64 `json:"p90"`
	P99    float64 `json:"p99"`
	Max    float64 `json:"max"`
	// Stages are medians in milliseconds of the parts of the quantity.
	Stages map[string]float64 `json:"stages,omitempty"`
	// At is where the series was measured, if that is one of several places: how many
	// clones lived, how many callers came … It is chosen, the same in each run, and with Name
	// and Golden says which series of two runs are one.
	At map[string]float64 `json:"at,omitempty"`
	// With are figures of this run that At led to: how many callers a second a part of what the
	// machine can do was, how large a golden turned out.
	With map[string]float64 `json:"with,omitempty"`
	// Samples are values, all of them or as many as are kept, chosen by chance:
	// to draw the distribution, and to compare it with that of another run.
	Samples []float64 `json:"samples,omitempty"`
	// StageSamples are the same of the stages, in milliseconds.
	StageSamples map[string][]float64 `json:"stage_samples,omitempty"`
}

// More says that more of the quantity is better: it is a rate.
func (s Series) More() bool { return strings.HasPrefix(s.Unit, "1/") }

// Machine describes where and beside what a scenario ran.
type Machine struct {
	OS          string            `json:"os"`
	Kernel      string            `json:"kernel"`
	Arch        string            `json:"arch"`
	CPU         string            `json:"cpu"`
	CPUs        int               `json:"cpus"` // that this process may use
	MemoryBytes int64             `json:"memory_bytes"`
	Filesystem  string            `json:"filesystem"` // of the storage
	StorageFree int64             `json:"storage_free_bytes"`
	Reflink     bool              `json:"reflink"`
	Versions    map[string]string `json:"versions"`
	LoadBefore  [3]float64        `json:"load_before"` // as in /proc/loadavg
	LoadAfter   [3]float64        `json:"load_after"`
	// BusyBefore is the share of all CPUs that was used, or stolen by the
	// hypervisor, while the run itself waited; 0 … 1.
	BusyBefore float64 `json:"busy_before"`
	BusyAfter  float64 `json:"busy_after"`
}

// NoisyFrom is the share of the CPUs that others may use before a run is
// called noisy.
const NoisyFrom = 0.15

// Noisy says that others used the machine.
func (m Machine) Noisy() bool { return m.BusyBefore > NoisyFrom || m.BusyAfter > NoisyFrom }
