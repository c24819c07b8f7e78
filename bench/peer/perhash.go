package peer

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// PerHash hands out databases as pgtestdb does: the server has a template for each
// hash of the migrations; each test connects, looks for it under an advisory
// lock, copies it with the server's default strategy, and drops its copy in the end.
type PerHash struct {
	server *Bare
	prefix string // of its databases
	mu     sync.Mutex
	made   int
}

var _ Peer = (*PerHash)(nil)

// NewPerHash uses the server's database as the template of the one hash that there
// is. The server goes on when it is closed.
func NewPerHash(server *Bare) *PerHash { return &PerHash{server: server, prefix: "test"} }

// Name implements [Peer].
func (p *PerHash) Name() string { return "pgtestdb_way" }

// Get implements [Peer]. It is safe for concurrent use.
func (p *PerHash) Get(ctx context.Context) (Endpoint, Drop, error) {
	p.mu.Lock()
	p.made++
	at := p.server.Endpoint
	at.Database = fmt.Sprintf("%s%d", p.prefix, p.made)
	p.mu.Unlock()
	if err := p.create(ctx, at.Database); err != nil {
		return at, nil, err
	}
	drop := func(ctx context.Context) error { return p.asAdmin(ctx, "DROP DATABASE "+at.Database+" WITH (FORCE)") }
	if err := at.Answer(ctx); err != nil {
		return at, nil, errors.Join(err, drop(context.WithoutCancel(ctx)))
	}
	return at, drop, nil
}

// create makes sure that the template is there and copies it.
func (p *PerHash) create(ctx context.Context, name string) error {
	template := p.server.Database
	return p.asAdmin(ctx,
		"SELECT pg_advisory_lock(1)",
		"SELECT 1 / count(*) FROM pg_database WHERE datname = '"+template+"'", // fails if it is gone
		"SELECT pg_advisory_unlock(1)",
		fmt.Sprintf("CREATE DATABASE %s TEMPLATE %q", name, template))
}

// asAdmin runs statements over a connection of its own, as each test has one.
func (p *PerHash) asAdmin(ctx context.Context, statements ...string) error {
	admin, err := connectAdmin(ctx, p.server)
	if err != nil {
		return err
	}
	defer admin.Close(context.WithoutCancel(ctx)) //nolint:errcheck // what it was for is done
	for _, sql := range statements {
		if err := execute(ctx, admin, sql); err != nil {
			return err
		}
	}
	return nil
}

// Close implements [Peer].
func (p *PerHash) Close(context.Context) error { return nil }
