package main_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

// verify compares what the daemon has with what it has confirmed, and removes what
// nobody was told of. Its caller holds the gate.
// An error is one of asking.
func (l *load) verify(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := l.verifyClones(ctx); err != nil {
		return err
	}
	return l.verifyGoldens(ctx)
}

func (l *load) verifyClones(ctx context.Context) error {
	list, err := client.Do(ctx, l.d.client, api.ListClones, api.ListClonesArgs{})
	if err != nil {
		return err
	}
	there, addrs := map[string]api.Clone{}, map[string]string{}
	for _, c := range list {
		there[c.ID] = c
		key := strings.Join(c.Networks, ",") + " " + c.Host
		if other := addrs[key]; other != "" && c.Host != "" {
			l.twice = append(l.twice, fmt.Sprintf("address %s to %s and %s", c.Host, other, c.ID))
		}
		addrs[key] = c.ID
	}
	for _, c := range l.callers {
		for id, h := range c.clones {
			if why := l.check(there, h); why != "" {
				l.lost = append(l.lost, fmt.Sprintf("clone %s of caller %d: %s", id, c.number, why))
				delete(c.clones, id)
			}
			delete(there, id)
		}
	}
	for id := range there {
		err := client.Tell(ctx, l.d.client, api.RemoveClone, api.RemoveArgs{ID: id})
		var answered *api.Error
		if errors.As(err, &answered) && answered.Code == api.CodeNotFound {
			continue // a lease's that has ended just now
		}
		if err != nil {
			return fmt.Errorf("remove clone that nobody was told of: %w", err)
		}
	}
	return nil
}

// check says what is wrong with a clone that somebody holds.
func (l *load) check(there map[string]api.Clone, h *held) string {
	got, ok := there[h.ID]
	switch {
	case !ok:
		return "it is not listed"
	case got.State != api.StateRunning || got.PID != h.PID || got.URL != h.URL || got.Name != h.Name:
		return fmt.Sprintf("it is %+v, and was %+v", got, h.Clone)
	}
	token, err := tryQuery(h.URLs["socket"], "SELECT token FROM owner")
	if err != nil {
		return err.Error()
	}
	if token != h.token {
		return fmt.Sprintf("it says %q, not %q", token, h.token)
	}
	return h.reachable(got)
}

func (l *load) verifyGoldens(ctx context.Context) error {
	list, err := client.Do(ctx, l.d.client, api.ListGoldens, api.ListGoldensArgs{})
	if err != nil {
		return err
	}
	there := map[string]api.Golden{}
	for _, g := range list {
		there[fmt.Sprintf("%s:%d", g.Name, g.Version)] = g
	}
	if _, ok := there["shop:1"]; !ok {
		l.lost = append(l.lost, "golden shop:1")
	}
	delete(there, "shop:1")
	for _, c := range l.callers {
		if c.golden != "" {
			c.verifyGolden(there)
		}
	}
	for ref, g := range there {
		if err := client.Tell(ctx, l.d.client, api.RemoveGolden, api.GoldenArgs{Ref: ref}); err != nil {
			return fmt.Errorf("remove golden %s, of which nobody was told, built %s: %w", ref, g.CreatedAt, err)
		}
	}
	return nil
}

// verifyGolden takes the caller's versions out of those that are there.
func (c *caller) verifyGolden(there map[string]api.Golden) {
	current := 0
	for _, version := range slices.Sorted(maps.Keys(c.versions)) {
		ref, want := fmt.Sprintf("%s:%d", c.golden, version), c.versions[version]
		got, ok := there[ref]
		if !ok || got.Digest != want.Digest || !got.CreatedAt.Equal(want.CreatedAt) {
			c.lost = append(c.lost, fmt.Sprintf("golden %s: %+v, was %+v", ref, got, want))
			delete(c.versions, version)
		}
		if got.Current {
			current = version
		}
		delete(there, ref)
	}
	for ref, g := range there {
		if g.Name != c.golden {
			continue
		}
		if g.Current {
			current = -1
		}
		for at := range c.gone {
			if at.Equal(g.CreatedAt) {
				c.wrong = append(c.wrong, "golden "+ref+" is there again after it was removed")
			}
		}
	}
	if current == 0 && len(c.versions) > 0 || len(c.current) > 0 && !c.current[current] && !c.current[-1] {
		c.wrong = append(c.wrong, fmt.Sprintf("golden %s: current is %d, not one of %v", c.golden, current, c.current))
	}
	c.current = map[int]bool{current: true}
}

// verifyDigests reads all goldens.
func (l *load) verifyDigests(ctx context.Context) error {
	list, err := client.Do(ctx, l.d.client, api.ListGoldens, api.ListGoldensArgs{})
	if err != nil {
		return err
	}
	for _, g := range list {
		if _, err := client.Do(ctx, l.d.client, api.VerifyGolden, api.GoldenArgs{Ref: fmt.Sprintf("%s:%d", g.Name, g.Version)}); err != nil {
			l.wrong = append(l.wrong, err.Error())
		}
	}
	return nil
}

// clear gives all clones back.
func (l *load) clear(ctx context.Context) error {
	for _, c := range l.callers {
		clear(c.clones)
	}
	return l.verifyClones(ctx) // nobody holds any: all go
}
