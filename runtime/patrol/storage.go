package patrol

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// A clone's disk is measured when so much was written by anybody that the clone could have
// come half way to its limit, within these bounds in bytes.
const (
	minGrowth = 16 << 20
	maxGrowth = 1 << 30
)

// restPerFile bounds the time that is spent on one clone: after a look at n open and mapped
// files, which takes a microsecond or two each, the next one comes no sooner than n *
// restPerFile. So a clone with less than 25,000 of them (PostgreSQL has 220 for each
// connection) can be looked at in each round, however busy the host is.
const restPerFile = 10 * time.Microsecond

// Space is what there is of the filesystem that holds goldens and clones, in bytes.
type Space struct {
	Size, Free int64
	// Reserve is what is to stay free: below it no clones and goldens are made. Below half
	// of it the clone that takes most is stopped.
	Reserve int64
}

// storage is what is known of it from earlier looks.
type storage struct {
	free     int64     // at the last look; 0 before the first
	written  int64     // sum of what the free space has shrunk by between looks
	low      bool      // less is free than is to stay so
	critical bool      // less than half of that
	broken   bool      // it answers with errors
	stopped  int64     // free space when a clone was stopped for it; 0 if none was
	since    time.Time // when it became critical
}

// buildsEnd bounds how long clones wait for the end of builds before one of them is stopped.
const buildsEnd = 10 * time.Second

// Room says why no clone and no golden is to be made now: nil, ResourceExhausted, or EIO for
// a storage that has stopped.
func (p *Patrol) Room() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.room
}

func (p *Patrol) setRoom(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.room = err
}

// lookAtStorage finds out how much is free, and how much was written since the last look.
func (p *Patrol) lookAtStorage() {
	s, err := p.opts.Space()
	st := &p.storage
	if err != nil {
		if !st.broken {
			p.opts.Log.Error("look at storage", "error", err)
		}
		if st.broken = errors.Is(err, unix.EIO); st.broken {
			p.setRoom(err)
		}
		return
	}
	if st.broken {
		st.broken, st.low = false, false
		p.setRoom(nil)
	}
	if st.free > 0 && s.Free < st.free {
		st.written += st.free - s.Free
	}
	st.free, st.critical = s.Free, s.Free < s.Reserve/2
	// Some more than the reserve has to be free again, so that it does not go to and fro.
	low := s.Free < s.Reserve || st.low && s.Free < s.Reserve+s.Reserve/8
	if low == st.low {
		return
	}
	st.low = low
	err = nil
	if low {
		err = snapshot.WithHint(
			fmt.Errorf("storage is full: %d MiB free, %d MiB are to stay so: %w", s.Free>>20, s.Reserve>>20, errdefs.ErrResourceExhausted),
			"'ctrsnap rm' removes clones, 'ctrsnap golden rm' goldens; storage.size makes it larger")
		p.opts.Log.Warn("storage is full", "free", s.Free, "reserve", s.Reserve)
	} else {
		p.opts.Log.Info("storage has room again", "free", s.Free)
	}
	p.setRoom(err)
	if low {
		p.endBuilds(err) // what they have taken is free again then
	}
	p.opts.Keeper.Full(err)
}

// endBuilds says whether builds are under way that have been told to end.
func (p *Patrol) endBuilds(why error) bool {
	return p.opts.EndBuilds != nil && p.opts.EndBuilds(why) > 0
}

// lookAtDisks measures the clones that may be beyond their limit, and stops those that are.
func (p *Patrol) lookAtDisks(ctx context.Context, targets []Target, deleted func() deletedFiles) {
	for _, t := range targets {
		if ctx.Err() != nil {
			return
		}
		s := p.of(t.ID)
		if t.PID == 0 || !p.due(t, s) {
			continue
		}
		n, err := p.opts.Keeper.Disk(ctx, t.ID)
		if err != nil {
			continue // it is going just now
		}
		// Each measurement has the files that are deleted and open: they were written, so
		// they have made the clone due, and no other growth would.
		hidden, files := deleted().onRoot(t.PID)
		n += hidden.bytes
		s.written, s.at, s.rest = p.storage.written, time.Now(), time.Duration(files)*restPerFile
		p.measured(t.ID, Usage{s.Memory, n})
		if t.Disk > 0 && n > t.Disk {
			p.halt(ctx, t.ID, fmt.Sprintf("it holds %d MiB of disk, its limit is %d MiB", n>>20, t.Disk>>20))
		}
	}
}

// due says whether a clone's disk is to be measured.
func (p *Patrol) due(t Target, s *seen) bool {
	since := time.Since(s.at)
	switch {
	case since < s.rest:
		return false
	case p.storage.critical || since >= rescanInterval:
		return true
	case t.Disk == 0:
		return false
	}
	return p.storage.written-s.written >= max(minGrowth, min(maxGrowth, (t.Disk-s.Disk)/2))
}

// relieve stops the clone that holds most where the storage is about to be full, whatever
// its limit is: all others would break otherwise. It stops the next when half of what
// was left then is gone, too.
func (p *Patrol) relieve(ctx context.Context, targets []Target) {
	st := &p.storage
	if !st.critical {
		st.stopped, st.since = 0, time.Time{}
		return
	}
	if st.since.IsZero() {
		st.since = time.Now()
	}
	if p.endBuilds(p.Room()) && time.Since(st.since) < buildsEnd {
		return // no clone is stopped for a build
	}
	if st.stopped > 0 && st.free > st.stopped/2 {
		return
	}
	most, id := int64(minGrowth-1), ""
	for _, t := range targets {
		if n := p.of(t.ID).Disk; t.PID > 0 && n > most {
			most, id = n, t.ID
		}
	}
	if id == "" {
		return
	}
	st.stopped = max(st.free, 1)
	p.halt(ctx, id, fmt.Sprintf("storage is about to be full, %d MiB are free, and it held most of all, %d MiB", st.free>>20, most>>20))
}
