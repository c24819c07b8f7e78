package manager

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/event"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// Space is what there is of the filesystem that holds goldens and clones, in bytes.
type Space struct {
	Size, Free int64
	// Reserve is what is to stay free: below it no clones and goldens are made. Below half
	// of it the clone that takes most is stopped.
	Reserve int64
}

// How often the storage, and what clones use beside it, are looked at.
const (
	spaceInterval = 250 * time.Millisecond
	spaceIdle     = 2 * time.Second // while there are no clones
	useInterval   = 5 * time.Second
	// A clone's disk is measured when so much was written by anybody that it could have
	// come half way to its limit, and once in rescanInterval.
	minGrowth      = 16 << 20
	maxGrowth      = 1 << 30
	rescanInterval = 30 * time.Second
)

// Room says why no clone and no golden is to be made now: nil, ResourceExhausted, or EIO for a storage that has stopped.
func (m *Manager) Room() error {
	if err := m.full.Load(); err != nil {
		return *err
	}
	return nil
}

// patrol watches over what clones use: one goroutine. The disk is looked at often, for
// a filesystem that is full breaks everybody's clones.
func (m *Manager) patrol() {
	w := &watcher{Manager: m}
	for next := time.Duration(0); ; {
		select {
		case <-time.After(next):
		case <-m.ctx.Done():
			return
		}
		clones := m.labelled(access.Daemon, nil)
		w.space()
		w.disks(clones)
		w.runDirs(clones)
		if time.Since(w.used) >= useInterval {
			w.used = time.Now()
			w.uses(clones)
		}
		if next = spaceIdle; len(clones) > 0 {
			next = spaceInterval
		}
	}
}

// watcher is what patrol remembers.
type watcher struct {
	*Manager
	free     int64 // at the last look; 0 before the first
	written  int64 // bytes by which the free space has shrunk, not counting growth
	low      bool
	stopped  int64 // free space when a clone was stopped for it; 0 if none was
	reserve  int64
	used     time.Time
	critical bool
	broken   bool // the storage answers with errors
	run      held // of the filesystem of RunDir, at the last look at all of it or less
	runAt    time.Time
	hiddenOn map[string]int64 // bytes of clones' disks, by clone
	// When it was looked for, what had been written then, and how long it took.
	hiddenAt      time.Time
	hiddenWritten int64
	hiddenTook    time.Duration
}

// space looks at the filesystem.
func (w *watcher) space() {
	if w.opts.Space == nil {
		return
	}
	s, err := w.opts.Space()
	if err != nil {
		if !w.broken {
			w.log.Error("look at storage", "error", err)
		}
		if w.broken = errors.Is(err, unix.EIO); w.broken {
			w.full.Store(&err)
		}
		return
	}
	if w.broken {
		w.broken, w.low = false, false
		w.full.Store(nil)
	}
	if w.free > 0 && s.Free < w.free {
		w.written += w.free - s.Free
	}
	w.free, w.reserve = s.Free, s.Reserve
	w.critical = s.Free < s.Reserve/2
	// Some more than the reserve has to be free again, so that it does not go to and fro.
	low := s.Free < s.Reserve || w.low && s.Free < s.Reserve+s.Reserve/8
	if low == w.low {
		return
	}
	w.low = low
	e := event.Event{Event: api.Event{Type: api.EventStorageOK}}
	if low {
		err := snapshot.WithHint(
			fmt.Errorf("storage is full: %d MiB free, %d MiB are to stay so: %w", s.Free>>20, s.Reserve>>20, errdefs.ErrResourceExhausted),
			"'ctrsnap rm' removes clones, 'ctrsnap golden rm' goldens; storage.size makes it larger")
		w.full.Store(&err)
		e.Type, e.Reason = api.EventStorageLow, err.Error()
		w.log.Warn("storage is full", "free", s.Free, "reserve", s.Reserve)
	} else {
		w.full.Store(nil)
		w.log.Info("storage has room again", "free", s.Free)
		w.pool.Poke()
	}
	w.opts.Events.Emit(e)
}

// disks measures the clones that may be beyond their limit, and stops those that are.
func (w *watcher) disks(clones []*clone) {
	for _, c := range clones {
		if w.ctx.Err() != nil {
			return
		}
		if c.isDead() || !w.due(c) {
			continue
		}
		n, err := w.opts.Store.Usage(w.ctx, c.id)
		if err != nil {
			continue // it is going just now
		}
		n += w.hiddenDisk(clones)[c.id]
		c.disk.Store(n)
		w.quota.Measured(c.id, c.memory.Load(), n)
		c.measured, c.measuredAt = w.written, time.Now()
		if limit := w.limitsOf(c).DiskBytes; limit > 0 && n > limit {
			w.halt(w.ctx, c, fmt.Sprintf("it holds %d MiB of disk, its limit is %d MiB", n>>20, limit>>20))
		}
	}
	w.relieve(clones)
}

// due says whether a clone's disk is to be measured. Only patrol's goroutine uses
// what it looks at.
func (w *watcher) due(c *clone) bool {
	if w.critical || time.Since(c.measuredAt) >= rescanInterval {
		return true
	}
	limit := w.limitsOf(c).DiskBytes
	if limit == 0 {
		return false
	}
	left := max(minGrowth, min(maxGrowth, (limit-c.disk.Load())/2))
	return w.written-c.measured >= left
}

// relieve stops the clone that holds most where the storage is about to be full, whatever
// its limit is: all others would break otherwise. It stops the next when half of what
// was left then is gone, too.
func (w *watcher) relieve(clones []*clone) {
	if !w.critical {
		w.stopped = 0
		return
	}
	if w.stopped > 0 && w.free > w.stopped/2 {
		return
	}
	var most *clone
	for _, c := range clones {
		if !c.isDead() && (most == nil || c.disk.Load() > most.disk.Load()) {
			most = c
		}
	}
	if most == nil || most.disk.Load() < minGrowth {
		return
	}
	w.stopped = max(w.free, 1)
	w.halt(w.ctx, most, fmt.Sprintf("storage is about to be full, %d MiB are free, and it held most of all, %d MiB", w.free>>20, most.disk.Load()>>20))
}

func (m *Manager) limitsOf(c *clone) api.Limits {
	m.mu.Lock()
	defer m.mu.Unlock()
	return c.rec.Limits
}

// halt ends a clone's server and leaves the rest, so that its owner finds out why.
func (m *Manager) halt(ctx context.Context, c *clone, reason string) {
	if err := m.update(ctx, c, func(r *record) { r.Reason = "stopped: " + reason }); err != nil {
		m.log.Warn("reason not recorded", "clone", c.id, "error", err)
	}
	m.log.Warn("clone stopped", "clone", c.id, "golden", c.golden.Ref().String(), "reason", reason)
	m.kill(ctx, c)
	m.emit(access.Daemon, api.EventCloneStopped, c, reason)
}
