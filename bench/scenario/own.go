package scenario

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ctrsnap/ctrsnap/bench/peer"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

// subject is the golden that a scenario measures: the user's own in place of one of the run's.
func (e *Env) subject(golden string) string {
	if e.Golden != "" {
		return e.Golden
	}
	return golden
}

// adopt finds the user's golden, and what its pool is, which scenarios change.
func (e *Env) adopt(ctx context.Context) error {
	g, err := client.Do(ctx, e.Rig.Client(), api.GetGolden, api.GoldenArgs{Ref: e.Golden})
	if err != nil {
		return fmt.Errorf("golden %s: %w", e.Golden, err)
	}
	pools, err := client.Do(ctx, e.Rig.Client(), api.ListPools, api.None{})
	if err != nil {
		return fmt.Errorf("pool of golden %s: %w", e.Golden, err)
	}
	e.pool = api.PoolRequest{Auto: true}
	for _, p := range pools {
		if p.Golden == g.Name && p.Version == g.Version && p.Size != nil {
			e.pool = api.PoolRequest{Size: p.Size}
		}
	}
	e.built[e.Golden] = g
	e.versions[g.Engine+" for "+e.Golden] = g.EngineVersion
	e.say("golden %s: version %d, %d MiB, %s", e.Golden, g.Version, g.SizeBytes>>20, version(g))
	return nil
}

// giveBack makes the pool of the user's golden what it was.
func (e *Env) giveBack(ctx context.Context) error {
	if _, ok := e.built[e.Golden]; !ok {
		return nil
	}
	_, err := client.Do(ctx, e.Rig.Client(), api.SetPool, api.SetPoolArgs{Golden: e.Golden, Body: e.pool})
	return err
}

// endpoint is where a clone is asked. What is in the user's golden nobody knows here: its clones
// must answer.
func (e *Env) endpoint(c api.Clone) peer.Endpoint {
	at := endpoint(c)
	if e.Golden != "" && at.Other == nil {
		at.Other = at.Answer
	}
	return at
}

// clonesThere are the directories of all clones.
func (e *Env) clonesThere() ([]os.DirEntry, error) {
	return os.ReadDir(filepath.Join(e.Rig.State(), "clones"))
}

// meet learns which clones others have in a daemon that runs already.
func (e *Env) meet() error {
	entries, err := e.clonesThere()
	if err != nil {
		return fmt.Errorf("look for clones: %w", err)
	}
	e.others = map[string]bool{}
	for _, d := range entries {
		e.others[d.Name()] = true
	}
	return nil
}
