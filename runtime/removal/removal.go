// Package removal takes clones away, in the background, until nothing is left of them, and knows of which there may be
// anything.
//
// It knows ids only: what a clone is made of, and how that is taken away, is its user's affair.
package removal

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"
)

const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 30 * time.Second
	// maxBacklog is how many may wait, for each that is removed at a time: what they hold (mounts, namespaces, disk)
	// would grow without end where they are made faster than they go.
	maxBacklog = 8
)

// Options are what a Queue works with. All are required.
type Options struct {
	// Remove takes all away that there is of an id. It is called again until it has succeeded, for one id at a time by
	// one goroutine. ctx does not end when the Queue is closed: what has begun is ended.
	Remove   func(ctx context.Context, id string) error
	Timeout  time.Duration // of one try
	Parallel int           // removals at a time
	Log      *slog.Logger
}

// Queue removes. It is safe for concurrent use. Close it.
type Queue struct {
	opts   Options
	slots  chan struct{} // a token for each removal under way
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	owned   map[string]bool
	pending map[string]chan struct{} // by id; closed when nothing is left
	backlog int                      // of pending, those that were not tried yet
	shorter chan struct{}            // closed, and replaced, when the backlog gets shorter
}

// New returns a Queue with nothing to do.
func New(opts Options) *Queue {
	q := &Queue{
		opts: opts, slots: make(chan struct{}, opts.Parallel),
		owned: map[string]bool{}, pending: map[string]chan struct{}{}, shorter: make(chan struct{}),
	}
	q.ctx, q.cancel = context.WithCancel(context.Background())
	return q
}

// Close waits for removals that have begun, and begins no other: what is left is the next process's to find. It is
// idempotent.
func (q *Queue) Close() {
	q.mu.Lock()
	q.cancel()
	q.mu.Unlock()
	q.wg.Wait()
}

// Own notes that there may be something of an id.
func (q *Queue) Own(id string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.owned[id] = true
}

// Disown notes that nothing is left of an id, by other means than Remove.
func (q *Queue) Disown(id string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.owned, id)
}

// Owned returns the ids that there is, or may be, anything of.
func (q *Queue) Owned() map[string]bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return maps.Clone(q.owned)
}

// Remove has all of an id taken away, and returns at once. The channel is closed when it is done; after Close it is
// closed although nothing is.
func (q *Queue) Remove(id string) <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	if done, ok := q.pending[id]; ok {
		return done
	}
	done := make(chan struct{})
	if q.ctx.Err() != nil {
		close(done)
		return done
	}
	q.pending[id] = done
	q.owned[id] = true
	q.backlog++
	q.wg.Go(func() { q.untilGone(id, done) })
	return done
}

func (q *Queue) untilGone(id string, done chan struct{}) {
	tried := sync.OnceFunc(q.shorten)
	for backoff := minBackoff; ; backoff = min(2*backoff, maxBackoff) {
		err := q.once(id)
		tried()
		if err == nil {
			break
		}
		if q.ctx.Err() != nil {
			return
		}
		q.opts.Log.Warn("clone not torn down yet", "clone", id, "error", err)
		select {
		case <-time.After(backoff):
		case <-q.ctx.Done():
			return
		}
	}
	q.mu.Lock()
	delete(q.pending, id)
	delete(q.owned, id)
	q.mu.Unlock()
	close(done)
}

func (q *Queue) once(id string) error {
	select {
	case q.slots <- struct{}{}:
		defer func() { <-q.slots }()
	case <-q.ctx.Done():
		return q.ctx.Err()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(q.ctx), q.opts.Timeout)
	defer cancel()
	return q.opts.Remove(ctx, id)
}

// shorten takes one off the backlog.
func (q *Queue) shorten() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.backlog--
	close(q.shorter)
	q.shorter = make(chan struct{})
}

// Await waits while too many wait for their removal: call it before more is made. What has failed and is tried again
// does not count, for nothing waits for it.
func (q *Queue) Await(ctx context.Context) error {
	for {
		q.mu.Lock()
		long, shorter := q.backlog > maxBacklog*q.opts.Parallel, q.shorter
		q.mu.Unlock()
		if !long {
			return nil
		}
		select {
		case <-shorter:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Pending returns how many are not gone yet.
func (q *Queue) Pending() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.pending)
}

// Drain waits until nothing is left of what was to be removed when it was called, or the Queue is closed.
func (q *Queue) Drain(ctx context.Context) error {
	q.mu.Lock()
	var waiting []<-chan struct{}
	for _, done := range q.pending {
		waiting = append(waiting, done)
	}
	q.mu.Unlock()
	for _, done := range waiting {
		select {
		case <-done:
		case <-ctx.Done():
			return fmt.Errorf("wait for clones to be torn down: %w", ctx.Err())
		case <-q.ctx.Done():
			return nil
		}
	}
	return nil
}

// Wait waits until what [Queue.Remove] has returned is closed, for no longer than timeout, or until the Queue is closed:
// the removal goes on, with nobody waiting.
func (q *Queue) Wait(timeout time.Duration, removed ...<-chan struct{}) {
	late := time.After(timeout)
	for _, done := range removed {
		select {
		case <-done:
		case <-q.ctx.Done():
			return
		case <-late:
			return
		}
	}
}

// Retry does something that what is on its way out may stand in the way of, as an address that it has still. If it
// does, as isInTheWay says of do's error, do is called again when that is gone.
func (q *Queue) Retry(ctx context.Context, do func() error, isInTheWay func(error) bool) error {
	err := do()
	if err == nil || !isInTheWay(err) || q.Pending() == 0 {
		return err
	}
	if err := q.Drain(ctx); err != nil {
		return err
	}
	return do()
}
