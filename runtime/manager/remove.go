package manager

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

const (
	killTimeout = 2 * time.Second
	minBackoff  = 100 * time.Millisecond
	maxBackoff  = 30 * time.Second
)

// Remove makes a clone invisible and kills its server. The rest is torn down
// afterwards: Drain waits for it. One that is protected goes by force only.
func (m *Manager) Remove(ctx context.Context, caller access.Caller, id string, force bool) error {
	c, err := m.find(caller, id)
	if err != nil {
		return err
	}
	m.mu.Lock()
	if c.rec.Protected && !force {
		m.mu.Unlock()
		return snapshot.WithHint(
			fmt.Errorf("clone %s is protected: %w", c.id, errdefs.ErrFailedPrecondition),
			"ctrsnap rm --force "+c.id+", or ctrsnap extend --protect=false")
	}
	detached := m.detach(c)
	m.mu.Unlock()
	if detached { // else somebody else was faster
		m.log.Info("clone removed", "clone", c.id, "golden", c.golden.Ref().String())
		_ = m.step("removed") // there is no way back
		m.emit(caller, api.EventCloneRemoved, c, "")
		m.end(ctx, c)
	}
	return nil
}

// end kills the server of a clone that is invisible and has the rest torn
// down. A restart before that is done finds a container without a running task, and
// goes on there.
func (m *Manager) end(ctx context.Context, c *clone) {
	m.kill(ctx, c)
	_ = m.step("killed")
	m.teardown(c.id)
}

// kill ends the server. What else there is of the clone, a teardown kills.
func (m *Manager) kill(ctx context.Context, c *clone) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
	defer cancel()
	_ = m.unpublish(ctx, c.id) // a port is free for the next one; the teardown does it again
	m.detachAll(ctx, c)
	if !c.isDead() {
		_ = c.task.Signal(ctx, syscall.SIGKILL) // it may be gone
	}
}

// teardown removes all that a clone is made of, in the background, until it
// has succeeded or the Manager is closed: Recover goes on then. The channel is closed when it is done.
func (m *Manager) teardown(id string) <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if done, ok := m.teardowns[id]; ok {
		return done
	}
	done := make(chan struct{})
	if m.ctx.Err() != nil {
		close(done)
		return done // Recover does it
	}
	m.teardowns[id] = done
	m.ids[id] = true
	m.backlog++
	m.wg.Go(func() { m.tearDownUntilGone(id, done) })
	return done
}

func (m *Manager) tearDownUntilGone(id string, done chan struct{}) {
	tried := sync.OnceFunc(m.shorten)
	for backoff := minBackoff; ; backoff = min(2*backoff, maxBackoff) {
		err := m.tearDownOnce(id)
		tried()
		if err == nil {
			break
		}
		if m.ctx.Err() != nil {
			return // Recover goes on with it
		}
		m.log.Warn("clone not torn down yet", "clone", id, "error", err)
		select {
		case <-time.After(backoff):
		case <-m.ctx.Done():
			return
		}
	}
	m.mu.Lock()
	delete(m.teardowns, id)
	delete(m.ids, id)
	m.mu.Unlock()
	close(done)
}

// shorten takes one off the backlog.
func (m *Manager) shorten() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.backlog--
	close(m.torn)
	m.torn = make(chan struct{})
}

// maxBacklog is how many clones may wait for their teardown, for each that is
// torn down at a time, before no new ones are made: what they hold (mounts,
// namespaces, disk) would grow without end where clones are made faster than they go.
const maxBacklog = 8

// awaitRemovals waits while the backlog is too long. What fails and is tried
// again does not count: nothing waits for it.
func (m *Manager) awaitRemovals(ctx context.Context) error {
	for {
		m.mu.Lock()
		long, torn := m.backlog > maxBacklog*m.opts.Parallel, m.torn
		m.mu.Unlock()
		if !long {
			return nil
		}
		select {
		case <-torn:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *Manager) tearDownOnce(id string) error {
	select {
	case m.removing <- struct{}{}:
		defer func() { <-m.removing }()
	case <-m.ctx.Done():
		return m.ctx.Err()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(m.ctx), undoTimeout)
	defer cancel()
	steps := []struct {
		name string
		do   func() error
	}{
		{"remove ports", func() error { return m.unpublish(ctx, id) }},
		{"remove container", func() error { return m.opts.Runner.Delete(ctx, id) }},
		{"remove interfaces", func() error { return m.forgetInterfaces(ctx, id) }},
		{"remove network", func() error { return m.opts.Network.Remove(ctx, id) }},
		{"remove snapshot", func() error { return m.opts.Store.Remove(ctx, id) }},
		{"remove files", func() error { return m.removeFiles(id) }},
	}
	for _, step := range steps {
		if err := errors.Join(m.step(step.name), step.do()); err != nil {
			return fmt.Errorf("tear down clone %s: %w", id, err)
		}
	}
	return nil
}

// removeFiles removes the directory of the socket and the log file.
func (m *Manager) removeFiles(id string) error {
	err := os.Remove(m.logPath(id))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(m.dirs.Remove(id), err)
}
