package goldens

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/event"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// saveEvery is how much of what it has seen a daemon that is killed may forget.
const saveEvery = time.Minute

// Uses know when goldens were last used: when a clone was last made of them, or has last ended. A nil Uses knows
// nothing. They are safe for concurrent use.
type Uses struct {
	file string

	mu      sync.Mutex
	known   known
	changed bool // since the file was written
}

// known is what the file has.
type known struct {
	Since time.Time            `json:"since"` // before, nobody looked: a golden may have been used then
	Last  map[string]time.Time `json:"last"`  // by reference
}

// OpenUses reads file, which need not exist. One that cannot be read is begun anew: no golden is unused for longer than
// the file is old.
func OpenUses(file string) (*Uses, error) {
	u := &Uses{file: file}
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(b, &u.known)
	}
	if u.known.Since.IsZero() || u.known.Last == nil {
		u.known, u.changed = known{Since: time.Now().UTC(), Last: map[string]time.Time{}}, true
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return u, fmt.Errorf("read when goldens were used: %w", err)
	}
	return u, nil
}

// Last says when a golden was last used. What is not known counts as a use.
func (u *Uses) Last(g snapshot.Golden) time.Time {
	last := g.Created
	if u == nil {
		return last
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, t := range []time.Time{u.known.Since, u.known.Last[g.Ref().String()]} {
		if t.After(last) {
			last = t
		}
	}
	return last
}

// Follow takes the uses that events tell of, and keeps them in the file, until ctx ends.
func (u *Uses) Follow(ctx context.Context, hub *event.Hub, log *slog.Logger) {
	var seen uint64
	save := func() {
		if err := u.save(); err != nil {
			log.ErrorContext(ctx, "keep when goldens were used", "error", err)
		}
	}
	defer save()
	next := time.After(0)
	for {
		list, more := hub.Since(seen)
		for _, e := range list {
			seen = e.ID
			u.note(e)
		}
		select {
		case <-more:
		case <-next:
			save()
			next = time.After(saveEvery)
		case <-ctx.Done():
			return
		}
	}
}

// note takes what an event tells.
func (u *Uses) note(e event.Event) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case e.Clone != "" && e.Golden != "":
		u.known.Last[e.Golden] = e.Time
	case e.Type == api.EventGoldenRemoved:
		maps.DeleteFunc(u.known.Last, func(ref string, _ time.Time) bool {
			return ref == e.Golden || strings.HasPrefix(ref, e.Golden+":")
		})
	default:
		return
	}
	u.changed = true
}

// save writes the file, if there is anything new.
func (u *Uses) save() (err error) {
	u.mu.Lock()
	b, merr := json.Marshal(u.known)
	changed := u.changed
	u.changed = false
	u.mu.Unlock()
	if !changed || merr != nil {
		return merr
	}
	f, err := os.CreateTemp(filepath.Dir(u.file), filepath.Base(u.file)+".")
	if err == nil {
		_, err = f.Write(b)
		err = errors.Join(err, f.Close())
		if err == nil {
			err = os.Rename(f.Name(), u.file)
		}
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}
	if err != nil {
		u.mu.Lock()
		u.changed = true
		u.mu.Unlock()
	}
	return err
}
