package manager

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// passwordsAhead is how many passwords of an engine are made ahead, once one was asked for.
const passwordsAhead = 32

// passwords are made ahead, by engine, and told to servers. Close them.
type passwords struct {
	log    *slog.Logger
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	ready  map[string][]runtime.Password
	making map[string]bool
	asked  map[string]bool // by golden: members are made ready for one
}

func newPasswords(log *slog.Logger) *passwords {
	p := &passwords{log: log, ready: map[string][]runtime.Password{}, making: map[string]bool{}, asked: map[string]bool{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// close makes no more. It is idempotent.
func (p *passwords) close() {
	p.cancel()
	p.wg.Wait()
}

// take returns a password that nobody has, and has more made.
func (p *passwords) take(name string, e runtime.PasswordSetter) (runtime.Password, error) {
	p.mu.Lock()
	have := p.ready[name]
	if len(have) <= passwordsAhead/2 && !p.making[name] {
		p.making[name] = true
		p.wg.Go(func() { p.make(name, e) })
	}
	if len(have) > 0 {
		p.ready[name] = have[1:]
	}
	p.mu.Unlock()
	if len(have) == 0 { // it takes milliseconds, which others need not wait for
		return e.NewPassword()
	}
	return have[0], nil
}

// make makes passwords until there are enough.
func (p *passwords) make(name string, e runtime.PasswordSetter) {
	for p.ctx.Err() == nil {
		made, err := e.NewPassword()
		p.mu.Lock()
		if err == nil {
			p.ready[name] = append(p.ready[name], made)
		}
		if err != nil || len(p.ready[name]) >= passwordsAhead {
			p.making[name] = false
			p.mu.Unlock()
			return // whoever takes the next one is told of the error
		}
		p.mu.Unlock()
	}
	p.mu.Lock()
	p.making[name] = false
	p.mu.Unlock()
}

// prepare gets a member ready for a password of its own, where such have been asked for: what is kept open for it takes
// memory.
func (p *passwords) prepare(ctx context.Context, c *clone) {
	e, ok := c.engine.(runtime.PasswordSetter)
	if !ok || !p.wanted(c.golden.Name) || !e.SetsPasswords(c.golden) {
		return
	}
	session, err := e.OpenPassword(ctx, c.golden, c.live())
	if err != nil {
		p.log.Warn("pool member not ready for a password", "clone", c.id, "error", err)
		return // it is tried again when it is needed
	}
	c.session = session
}

// wanted says whether a password was asked for of a golden's clones.
func (p *passwords) wanted(golden string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked[golden]
}

// want takes note that one was.
func (p *passwords) want(golden string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked[golden] = true
}

// set gives the server of a clone that nobody has yet a password of its own, if that is wanted. It returns what the
// record is to say of it.
func (p *passwords) set(ctx context.Context, c *clone, want *plan) (change func(*record), err error) {
	if !want.ownPassword {
		return func(*record) {}, nil
	}
	e := c.engine.(runtime.PasswordSetter) // plan has checked it
	own, err := p.take(c.golden.Engine, e)
	if err != nil {
		return nil, err
	}
	ep := c.live()
	if err := tell(ctx, c, e, ep, own); err != nil {
		return nil, err
	}
	ep.Password = own.Text
	conn, err := c.engine.Connect(c.golden, ep)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return func(r *record) {
		r.OwnPassword = true
		r.connection = connection(conn)
	}, nil
}

// tell has the server of a clone take a password.
func tell(ctx context.Context, c *clone, e runtime.PasswordSetter, ep runtime.Endpoint, p runtime.Password) error {
	if c.session != nil && c.session.Set(ctx, p) == nil { // else its server has closed it meanwhile
		return nil
	}
	session, err := e.OpenPassword(ctx, c.golden, ep)
	if err != nil {
		return err
	}
	defer session.Close() //nolint:errcheck // all is said
	return session.Set(ctx, p)
}

// checkPassword refuses what the engine cannot do, and has members made ready for the next request of the kind.
func (l *planner) checkPassword(p *plan) error {
	e, ok := p.engine.(runtime.PasswordSetter)
	ok = ok && e.SetsPasswords(p.golden)
	p.ownPassword = p.ownPassword || l.opts.OwnPassword && ok
	if !p.ownPassword {
		return nil
	}
	if !ok {
		return snapshot.WithHint(
			fmt.Errorf("engine %s has no passwords of a clone's own: %w", p.golden.Engine, errdefs.ErrInvalidArgument),
			"leave it out: the golden's password is used")
	}
	l.passwords.want(p.golden.Name)
	return nil
}
