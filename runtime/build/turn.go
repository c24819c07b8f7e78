package build

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime/pool"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// maxOfUser bounds the builds of one user that are under way: also one that waits has files on the disk, and one
// that waits for its caller's command has a server.
const maxOfUser = 32

// turn is the place of one build among those that are worked on. It is for one goroutine.
type turn struct {
	queue *pool.Queue
	most  int // builds that are worked on at a time
	who   string
	step  func(string)
	leave func() // nil: it is not worked on
}

// take waits for the build's turn.
func (t *turn) take(ctx context.Context) error {
	leave, _, err := t.queue.Enter(ctx, t.who, pool.Waiting{Moved: func(place int, _ time.Duration) {
		t.step(fmt.Sprintf("wait: %d builds are under way, place %d in the queue", t.most, place))
	}})
	if err != nil {
		return err
	}
	t.leave = leave
	return nil
}

// give ends the build's turn. It is idempotent.
func (t *turn) give() {
	if t.leave != nil {
		t.leave()
		t.leave = nil
	}
}

// without runs wait, which does no work of this host's, in nobody's turn.
func (t *turn) without(ctx context.Context, wait func() error) error {
	t.give()
	err := wait()
	if err != nil {
		return err
	}
	return t.take(ctx)
}

// party is the caller's name in the queue.
func (j *job) party() string { return strconv.Itoa(j.payer()) }

// payer is the user whose limits hold for the caller.
func (j *job) payer() int {
	if j.Payer == nil {
		return j.caller.UID()
	}
	return j.Payer(j.caller.UID())
}

// register lets a build begin, unless its caller has too many.
func (b *Builder) register(j *job) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, other := range b.jobs {
		if other.payer() == j.payer() {
			n++
		}
	}
	if n >= maxOfUser && !j.caller.IsAdmin() {
		return snapshot.WithHint(fmt.Errorf("%s has %d builds under way: %w", j.caller.Name, n, errdefs.ErrResourceExhausted),
			"wait for one of them to end")
	}
	b.jobs[j.id] = j
	return nil
}
