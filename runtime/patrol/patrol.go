// Package patrol looks at what clones use and at the storage that they share, and says which
// clone is to end, and why: it holds too much, nobody uses it, or the storage is about to be
// full.
//
// A Patrol looks and answers; whoever has the clones ends them.
package patrol

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// How often things are looked at.
const (
	interval     = 250 * time.Millisecond
	idleInterval = 2 * time.Second // while there are no clones
	useInterval  = 5 * time.Second // for what changes slowly
	// rescanInterval is how often everything is looked at, whatever was written.
	rescanInterval = 30 * time.Second
)

// Target is a clone to be looked at.
type Target struct {
	ID        string
	PID       int           // of its server's first process; 0 once it has ended
	Log       string        // file of what its server writes
	Disk      int64         // limit in bytes; 0 is none
	IdleTTL   time.Duration // it ends when nobody has used it for so long; 0 is without end
	Warning   time.Duration // how long before that its user is warned
	Protected bool          // from ending so
}

// Usage is what a clone uses, in bytes.
type Usage struct{ Memory, Disk int64 }

// Keeper has the clones. Its methods are called by one goroutine.
type Keeper interface {
	// Targets lists the clones that are handed out.
	Targets() []Target
	// Memory and Disk measure a clone, in bytes. Files that it has deleted and keeps open
	// are not in Disk.
	Memory(ctx context.Context, id string) (int64, error)
	Disk(ctx context.Context, id string) (int64, error)
	// Measured is told what a clone uses, when that was measured.
	Measured(id string, u Usage)
	// Halt ends the server of a clone and leaves the rest, so that its owner finds out why.
	Halt(ctx context.Context, id, why string)
	// Expiring and Expire are told of a clone that nobody uses: it ends soon, or now.
	Expiring(id, why string)
	Expire(id, why string)
	// Full is told when the storage gets full, with the error that callers get, and, with
	// nil, when it has room again.
	Full(err error)
}

// Options are what a Patrol works with.
type Options struct {
	Keeper Keeper
	Space  func() (Space, error) // looks at the storage
	// EndBuilds ends the builds that are under way, because of why, and says how many have not ended yet. nil: there are none.
	EndBuilds func(why error) (left int)
	Log       *slog.Logger
}

// Patrol looks at clones and storage while Run runs. It is safe for concurrent use.
type Patrol struct {
	opts Options

	mu   sync.Mutex
	used map[string]Usage // by id, as last measured
	room error            // why nothing is to be made; nil if it may

	// Of Run's goroutine alone.
	seen    map[string]*seen // by id
	storage storage
	usedAt  time.Time // when what changes slowly was looked at
	deleted func() deletedFiles
}

// seen is what is known of a clone from earlier looks.
type seen struct {
	Usage
	written  int64         // storage.written when the disk was measured
	at       time.Time     // when that was
	rest     time.Duration // how long it is not measured again
	halted   time.Time
	activity activity
	usedAt   time.Time // when somebody was seen to use it
	warned   bool      // that nobody does
}

// New returns a Patrol that has not looked yet.
func New(opts Options) *Patrol {
	return &Patrol{opts: opts, used: map[string]Usage{}, seen: map[string]*seen{}, deleted: findDeleted}
}

// Run looks until ctx ends. The storage is looked at often: when it is full, everybody's
// clones break.
func (p *Patrol) Run(ctx context.Context) {
	for next := time.Duration(0); ; {
		select {
		case <-time.After(next):
		case <-ctx.Done():
			return
		}
		targets := p.opts.Keeper.Targets()
		p.forget(targets)
		p.look(ctx, targets)
		if next = idleInterval; len(targets) > 0 {
			next = interval
		}
	}
}

// look is one round.
func (p *Patrol) look(ctx context.Context, targets []Target) {
	deleted := sync.OnceValue(p.deleted) // at most once in a round, and only if it is needed
	p.lookAtStorage()
	p.lookAtDisks(ctx, targets, deleted)
	p.relieve(ctx, targets)
	if time.Since(p.usedAt) >= useInterval {
		p.usedAt = time.Now()
		p.lookAtUse(ctx, targets)
	}
}

// Used returns what a clone used when it was last measured.
func (p *Patrol) Used(id string) Usage {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.used[id]
}

// of returns what is known of a clone.
func (p *Patrol) of(id string) *seen {
	s := p.seen[id]
	if s == nil {
		s = &seen{}
		p.seen[id] = s
	}
	return s
}

// forget drops what is known of clones that are gone.
func (p *Patrol) forget(targets []Target) {
	there := make(map[string]bool, len(targets))
	for _, t := range targets {
		there[t.ID] = true
	}
	for id := range p.seen {
		if !there[id] {
			delete(p.seen, id)
			p.mu.Lock()
			delete(p.used, id)
			p.mu.Unlock()
		}
	}
}

// measured takes note of what a clone uses.
func (p *Patrol) measured(id string, u Usage) {
	p.of(id).Usage = u
	p.mu.Lock()
	p.used[id] = u
	p.mu.Unlock()
	p.opts.Keeper.Measured(id, u)
}

// halt has a clone ended. One that goes on nevertheless is ended again later.
func (p *Patrol) halt(ctx context.Context, id, why string) {
	if s := p.of(id); time.Since(s.halted) >= rescanInterval {
		s.halted = time.Now()
		p.opts.Keeper.Halt(ctx, id, why)
	}
}
