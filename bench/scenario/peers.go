package scenario

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/ctrsnap/ctrsnap/bench/peer"
	"github.com/ctrsnap/ctrsnap/bench/recorder"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// peerRounds is how many databases each peer hands out, if time allows.
const peerRounds = 30

// peers compares all ways to get a database with the same data, each until its
// first answer.
func peers(ctx context.Context, t *take) (err error) {
	const golden = "app"
	if err := t.unpooled(ctx, golden); err != nil {
		return err
	}
	rivals, end, err := t.rivals(ctx, golden)
	defer func() { err = errors.Join(err, end()) }()
	if err != nil {
		return err
	}
	if err := t.race(ctx, golden, rivals); err != nil {
		return err
	}
	if err := t.racePool(ctx, golden); err != nil {
		return err
	}
	if err := t.raceRunc(ctx, golden); err != nil {
		return err
	}
	return t.raceTemplates(ctx)
}

// race has the peers take turns until each has had its rounds, or its time.
func (t *take) race(ctx context.Context, golden string, rivals []peer.Peer) error {
	series := make([]*recorder.Recorder, len(rivals))
	spent := make([]time.Duration, len(rivals))
	for i, p := range rivals {
		series[i] = recorder.New(p.Name(), golden, "ms")
		if err := t.getOne(ctx, p, recorder.New("", "", "ms")); err != nil { // to warm up
			if err := t.fail(ctx, series[i], fmt.Errorf("peer %s: %w", p.Name(), err)); err != nil {
				return err
			}
			spent[i] = time.Hour // the others go on without it
		}
	}
	defer func() { t.keep(series...) }()
	for range t.rounds(peerRounds) {
		for i, p := range rivals {
			if spent[i] > t.Span/2 { // there are many
				continue
			}
			begun := time.Now()
			if err := t.getOne(ctx, p, series[i]); err != nil {
				if err := t.fail(ctx, series[i], fmt.Errorf("peer %s: %w", p.Name(), err)); err != nil {
					return err
				}
			}
			spent[i] += time.Since(begun)
		}
	}
	return nil
}

// getOne measures one database, checks it and drops it.
func (t *take) getOne(ctx context.Context, p peer.Peer, r *recorder.Recorder) error {
	begun := time.Now()
	at, drop, err := p.Get(ctx)
	if err != nil {
		return err
	}
	took := time.Since(begun)
	if err := errors.Join(checkRows(ctx, at), drop(ctx)); err != nil {
		return err
	}
	r.AddDuration(took)
	return nil
}

// clones are ctrsnap as a peer.
type clones struct {
	*Env
	name, golden string
	after        func(ctx context.Context) error // before the next is asked for
}

var _ peer.Peer = clones{}

// Name implements [peer.Peer].
func (c clones) Name() string { return c.name }

// Get implements [peer.Peer].
func (c clones) Get(ctx context.Context) (peer.Endpoint, peer.Drop, error) {
	clone, _, _, err := c.clone(ctx, c.golden)
	drop := func(ctx context.Context) error {
		return errors.Join(c.remove(ctx, clone.ID), c.after(ctx))
	}
	return endpoint(clone), drop, err
}

// Close implements [peer.Peer].
func (clones) Close(context.Context) error { return nil }

func nothing(context.Context) error { return nil }

// racePool measures clones that wait in the pool: their making is no turn of others.
func (t *take) racePool(ctx context.Context, golden string) error {
	const members = 4
	if err := t.pooled(ctx, golden, members); errors.Is(err, errNoPool) {
		t.skip("ctrsnap_pool: %v", err)
		return nil
	} else if err != nil {
		return err
	}
	pooled := clones{t.Env, "ctrsnap_pool", golden, func(ctx context.Context) error { return t.warm(ctx, golden, members) }}
	return errors.Join(t.race(ctx, golden, []peer.Peer{pooled}), t.setPool(ctx, golden, 0))
}

// raceRunc measures containerd with its stock runc shim: the same daemon with the
// baseline's configuration.
func (t *take) raceRunc(ctx context.Context, golden string) (err error) {
	if t.Baseline == nil || !t.Rig.Own() {
		t.skip("containerd_runc: needs a daemon of the run's own, and --baseline")
		return nil
	}
	defer func() { err = errors.Join(err, t.restart(context.WithoutCancel(ctx), t.Daemon)) }()
	if err := t.restart(ctx, t.Baseline); err != nil {
		return err
	}
	if err := t.setPoolIfAny(ctx, golden, 0); err != nil {
		return err
	}
	t.note("containerd_runc: not in turns with the others, for the daemon is restarted for it")
	return t.race(ctx, golden, []peer.Peer{clones{t.Env, "containerd_runc", golden, nothing}})
}

// rivals are the peers that take turns with ctrsnap on this host. end closes them.
func (t *take) rivals(ctx context.Context, golden string) (all []peer.Peer, end func() error, err error) {
	var closers []func() error
	end = func() error {
		var err error
		for i := range closers {
			err = errors.Join(err, closers[len(closers)-1-i]())
		}
		return err
	}
	add := func(p peer.Peer) {
		all = append(all, p)
		closers = append(closers, func() error { return p.Close(context.WithoutCancel(ctx)) })
	}
	c, _, _, err := t.clone(ctx, golden)
	if err != nil {
		return nil, end, err
	}
	defer func() { err = errors.Join(err, t.remove(ctx, c.ID)) }()
	o, err := t.original(c)
	if err != nil {
		return nil, end, err
	}
	login, place := endpoint(c), peer.Place{Data: t.scratch, Sockets: t.Rig.State()}
	b, err := t.bare(o, login)
	if err != nil {
		return nil, end, err
	}
	closers = append(closers, b.Close)
	if err := b.Start(ctx); err != nil {
		return nil, end, err
	}
	add(clones{t.Env, "ctrsnap", golden, nothing})
	add(peer.NewReflink(o, login, place))
	add(peer.NewCopy(o, login, place))
	t.note("bare and cp: with the copy, which scenario cold leaves out; integresql_way: in process, without its HTTP, and what it makes ahead between turns not counted")
	err = errors.Join(t.inServer(ctx, b, add), t.fromDump(ctx, o, b, login, place, add), t.containers(ctx, c, o, login, place, add))
	return all, end, err
}

// inServer adds the peers that make databases inside one server.
func (t *take) inServer(ctx context.Context, b *peer.Bare, add func(peer.Peer)) error {
	for _, strategy := range []string{"WAL_LOG", "FILE_COPY"} {
		p, err := peer.NewTemplate(ctx, b, strategy)
		if err != nil {
			return err
		}
		add(p)
	}
	add(peer.NewPerHash(b))
	p, err := peer.NewAhead(ctx, b, 2)
	if err == nil {
		add(p)
	}
	return err
}

// fromDump adds the peers that load a dump.
func (t *take) fromDump(ctx context.Context, o peer.Original, b *peer.Bare, login peer.Endpoint, place peer.Place, add func(peer.Peer)) error {
	custom, plain := filepath.Join(t.Rig.Work(), "app.dump"), filepath.Join(t.Rig.Work(), "app-plain.sql")
	err := errors.Join(peer.Dump(ctx, b, "custom", custom), peer.Dump(ctx, b, "plain", plain))
	if errors.Is(err, peer.ErrNotHere) {
		t.skip("pg_restore, initdb_sql: %v", err)
		return nil
	}
	if err != nil {
		return err
	}
	restore, err := peer.NewRestore(ctx, b, custom)
	if err != nil {
		return err
	}
	add(restore)
	initdb, err := peer.NewInitdb(o, login, place, plain)
	if errors.Is(err, peer.ErrNotHere) {
		t.skip("initdb_sql: %v", err)
		return nil
	}
	if err == nil {
		add(initdb)
	}
	return err
}

// containers adds the container engines that this host has.
func (t *take) containers(ctx context.Context, c api.Clone, o peer.Original, login peer.Endpoint, place peer.Place, add func(peer.Peer)) error {
	for _, engine := range []string{"docker", "podman"} {
		p, err := peer.NewContainer(ctx, engine, c.PID, o, login, place)
		if errors.Is(err, peer.ErrNotHere) {
			t.skip("%s_run: %v", engine, err)
			continue
		}
		if err != nil { // it is there and does not work: an error, but not of the others
			r := recorder.New(engine+"_run", c.Golden, "ms")
			if err := t.fail(ctx, r, err); err != nil {
				return err
			}
			t.keep(r)
			continue
		}
		add(p)
	}
	return nil
}
