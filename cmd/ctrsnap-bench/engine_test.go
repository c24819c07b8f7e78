package main

import (
	"strings"
	"testing"

	"github.com/ctrsnap/ctrsnap/bench/scenario"
)

// Goldens of other engines have the scenarios that need no PostgreSQL, and are told of the others.
func TestEngineScenarios(t *testing.T) {
	for _, c := range []struct {
		engine string
		only   []string
		says   string // "" is none
		n      int
	}{
		{"redis", []string{"cold", "claim"}, "", 2},
		{"redis", nil, "", len(scenario.AnyEngine())}, // all
		{"redis", []string{"query"}, "scenario query needs PostgreSQL: with --engine redis there are cold, ", 0},
		{"postgres", []string{"query"}, "", 1},
	} {
		o := &options{of: scenario.All, only: c.only, bin: "x"}
		o.env.Engine = c.engine
		chosen, err := o.prepare()
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) || len(chosen) != c.n {
			t.Errorf("%s %v: %d scenarios, %v", c.engine, c.only, len(chosen), err)
		}
	}
	o := &options{of: scenario.All, bin: "x"}
	o.env.Init = "x.sql"
	if _, err := o.prepare(); err == nil {
		t.Error("--init is taken without --engine")
	}
}
