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
	"github.com/ctrsnap/ctrsnap/runtime/api/server"
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
}

// takePassword returns a password that nobody has, and has more made.
func (m *Manager) takePassword(name string, e runtime.PasswordSetter) (runtime.Password, error) {
	p := &m.passwords
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ready == nil {
		p.ready, p.making = map[string][]runtime.Password{}, map[string]bool{}
	}
	have := p.ready[name]
	if len(have) <= passwordsAhead/2 && !p.making[name] {
		p.making[name] = true
		m.wg.Go(func() { m.makePasswords(name, e) })
	}
	if len(have) == 0 {
		return e.NewPassword()
	}
	p.ready[name] = have[1:]
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
	ep := m.endpoint(c.id, c.rec.Addr, c.rec.PID)
	if err := e.SetPassword(ctx, c.golden, ep, p); err != nil {
		return nil, err
	}
	ep.Password = p.Text
	conn, err := c.engine.Connect(c.golden, ep)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return func(r *record) {
		r.OwnPassword = true
		setConnection(&r.Clone, conn)
	}, nil
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

// checkPassword refuses what the engine cannot do.
func (p *plan) checkPassword() error {
	if _, ok := p.engine.(runtime.PasswordSetter); p.ownPassword && !ok {
		return snapshot.WithHint(
			fmt.Errorf("engine %s has no passwords of a clone's own: %w", p.golden.Engine, errdefs.ErrInvalidArgument),
			"leave it out: the golden's password is used")
	}
	return nil
}

// withhold hides a password of a clone's own from others than its owner and root.
func withhold(ctx context.Context, owner int, c api.Clone) api.Clone {
	who, known := server.CallerOf(ctx)
	if !c.OwnPassword || !known || who.May(owner) {
		return c
	}
	c.Password, c.URL, c.URLs, c.Env = "", "", nil, nil
	return c
}
