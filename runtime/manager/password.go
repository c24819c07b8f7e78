package manager

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// passwordsAhead is how many passwords of an engine are made ahead, once one
// was asked for.
const passwordsAhead = 32

// passwords are made ahead, by engine. The zero value is ready.
type passwords struct {
	mu     sync.Mutex
	ready  map[string][]runtime.Password
	making map[string]bool
	asked  map[string]bool // by golden: members are made ready for one
}

// takePassword returns a password that nobody has, and has more made.
func (m *Manager) takePassword(name string, e runtime.PasswordSetter) (runtime.Password, error) {
	p := &m.passwords
	p.mu.Lock()
	if p.ready == nil {
		p.ready, p.making = map[string][]runtime.Password{}, map[string]bool{}
	}
	have := p.ready[name]
	if len(have) <= passwordsAhead/2 && !p.making[name] {
		p.making[name] = true
		m.wg.Go(func() { m.makePasswords(name, e) })
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

// makePasswords makes passwords until there are enough.
func (m *Manager) makePasswords(name string, e runtime.PasswordSetter) {
	p := &m.passwords
	for m.ctx.Err() == nil {
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

// openPassword gets a member ready for a password of its own, where such have
// been asked for: what is kept open for it takes memory.
func (m *Manager) openPassword(ctx context.Context, c *clone) {
	e, ok := c.engine.(runtime.PasswordSetter)
	if !ok || !m.passwords.wanted(c.golden.Name) || !e.SetsPasswords(c.golden) {
		return
	}
	session, err := e.OpenPassword(ctx, c.golden, m.live(c))
	if err != nil {
		m.log.Warn("pool member not ready for a password", "clone", c.id, "error", err)
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
	if p.asked == nil {
		p.asked = map[string]bool{}
	}
	p.asked[golden] = true
}

// tell has the server of a clone take a password.
func (m *Manager) tell(ctx context.Context, c *clone, e runtime.PasswordSetter, ep runtime.Endpoint, p runtime.Password) error {
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

// setPassword gives the server of a clone that nobody has yet a password of its
// own, if that is wanted. It returns what the record is to say of it.
func (m *Manager) setPassword(ctx context.Context, c *clone, want *plan) (change func(*record), err error) {
	if !want.ownPassword {
		return func(*record) {}, nil
	}
	e := c.engine.(runtime.PasswordSetter) // plan has checked it
	p, err := m.takePassword(c.golden.Engine, e)
	if err != nil {
		return nil, err
	}
	ep := m.live(c)
	if err := m.tell(ctx, c, e, ep, p); err != nil {
		return nil, err
	}
	ep.Password = p.Text
	conn, err := c.engine.Connect(c.golden, ep)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return func(r *record) {
		r.OwnPassword = true
		r.connection = connection(conn)
	}, nil
}

// ownPassword is the password that is a clone's alone, or "".
func (m *Manager) ownPassword(c *clone) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !c.rec.OwnPassword {
		return ""
	}
	return c.rec.Password
}

// lock gives a clone that was just made a password of its own, if that is
// wanted. It ends the clone if that fails.
func (m *Manager) lock(ctx context.Context, c *clone, want *plan) (*clone, error) {
	if !want.ownPassword {
		return c, nil
	}
	begun := time.Now()
	change, err := m.setPassword(ctx, c, want)
	if err == nil {
		err = m.update(ctx, c, func(r *record) {
			change(r)
			took := milliseconds(time.Since(begun))
			r.Timings = maps.Clone(r.Timings) // others may read the old one
			r.Timings[api.StagePersonalise] = took
			r.Timings[api.StageTotal] += took
		})
	}
	if err != nil {
		m.discard([]*clone{c})
		return nil, err
	}
	return c, nil
}

// checkPassword refuses what the engine cannot do, and has members made ready for
// the next request of the kind.
func (m *Manager) checkPassword(p *plan) error {
	e, ok := p.engine.(runtime.PasswordSetter)
	ok = ok && e.SetsPasswords(p.golden)
	p.ownPassword = p.ownPassword || m.opts.OwnPassword && ok
	if !p.ownPassword {
		return nil
	}
	if !ok {
		return snapshot.WithHint(
			fmt.Errorf("engine %s has no passwords of a clone's own: %w", p.golden.Engine, errdefs.ErrInvalidArgument),
			"leave it out: the golden's password is used")
	}
	m.passwords.want(p.golden.Name)
	return nil
}
