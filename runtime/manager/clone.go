package manager

import (
	"context"
	"fmt"
	"os"
	"sync"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// clone is a clone that this process watches over. It is safe for concurrent use.
type clone struct {
	id      string // of rec, which does not change there
	golden  snapshot.Golden
	engine  runtime.Engine
	sockets string       // directory of its socket, on the host
	task    runtime.Task // set before anybody else has the clone

	proc    *os.File                // of a member: tells at once that its server has ended; nil if unknown
	session runtime.PasswordSession // of a member that is ready for a password of its own, or nil
	died    chan struct{}           // closed when the server has ended
	exit    runtime.Exit            // valid once died is closed
	gone    chan struct{}           // closed when the clone is removed

	restarting sync.Mutex // held while its user has the server restart; taken before all other locks
	saving     sync.Mutex // held while the record is changed; taken before all other locks but that
	mu         sync.Mutex // taken after all other locks
	rec        record
}

func newClone(id string, golden snapshot.Golden, engine runtime.Engine, sockets string, rec record) *clone {
	return &clone{
		id: id, golden: golden, engine: engine, sockets: sockets, rec: rec, died: make(chan struct{}), gone: make(chan struct{}),
	}
}

// record returns what is recorded of the clone. What it refers to is never changed.
func (c *clone) record() record {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rec
}

// change changes what this process knows of the clone; see [registry.update] for what the next one is to know.
func (c *clone) change(change func(*record)) {
	c.saving.Lock()
	defer c.saving.Unlock()
	rec := c.record()
	change(&rec)
	c.set(rec)
}

func (c *clone) set(rec record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rec = rec
}

func (c *clone) isDead() bool { return isClosed(c.died) }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// endpoint says where the server listens, or will.
func (c *clone) endpoint() runtime.Endpoint {
	rec := c.record()
	return runtime.Endpoint{SocketDir: c.sockets, Addr: rec.Addr, PID: rec.PID}
}

// live is the endpoint of a server that runs.
func (c *clone) live() runtime.Endpoint {
	ep := c.endpoint()
	ep.Exec = func(ctx context.Context, p runtime.Process) (int, error) {
		return c.task.Exec(ctx, p, runtime.Stdio{}, nil)
	}
	return ep
}

// namespace is the path of the clone's network namespace, "" when its server has ended.
func (c *clone) namespace() string {
	if c.isDead() {
		return ""
	}
	return namespaceOf(c.task)
}

func namespaceOf(t runtime.Task) string { return fmt.Sprintf("/proc/%d/ns/net", t.PID()) }

// ownPassword is the password that is the clone's alone, or "".
func (c *clone) ownPassword() string {
	rec := c.record()
	if !rec.OwnPassword {
		return ""
	}
	return rec.Password
}

// nameOf is a name of a clone: each user has names of their own, so that they tell nothing about others' clones and are
// not in their way.
type nameOf struct {
	uid  int
	name string
}

// name returns what a clone is found by beside its id. Neither part changes once it is handed out.
func (c *clone) name() nameOf {
	rec := c.record()
	return nameOf{rec.OwnerUID, rec.Name}
}
