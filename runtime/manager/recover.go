package manager

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/ctrsnap/ctrsnap/network/kind"
	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/lease"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// Report says what Recover found.
type Report struct {
	Adopted int // clones that run on
	Members int // clones that wait in the pool
	Removed int // clones that were expired, dead or unfinished
	Orphans int // snapshots, networks and files without a container
}

// Recover takes up what an earlier process left: clones that run are adopted as
// they were recorded, all else that belongs to clones is torn down, in the
// background. Clones of a lease wait for its holder until Serving is called, and LeaseRestartGrace from then on. An
// error about one clone does not keep the others from being recovered; that
// clone is left alone.
func (m *Manager) Recover(ctx context.Context) (Report, error) {
	if err := m.makeDirs(); err != nil {
		return Report{}, err
	}
	infos, err := m.opts.Runner.Containers(ctx, map[string]string{snapshot.LabelKind: snapshot.KindClone})
	if err != nil {
		return Report{}, fmt.Errorf("recover clones: %w", err)
	}
	var mu sync.Mutex
	var report Report
	var errs []error
	known := map[string]bool{}
	var g errgroup.Group
	g.SetLimit(m.opts.Parallel)
	for _, info := range infos {
		known[info.ID] = true
		g.Go(func() error {
			c, err := m.adopt(ctx, info)
			if c == nil && err == nil {
				m.freeInterfaces(ctx, info.ID)
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				errs = append(errs, err)
				m.own(info.ID)
			case c != nil && c.rec.Member:
				report.Members++
			case c != nil:
				report.Adopted++
			default:
				report.Removed++
				m.teardown(info.ID)
			}
			return nil
		})
	}
	_ = g.Wait() // errors are in errs
	errs = append(errs, m.reconcileInterfaces(ctx, known), m.reconcilePorts(ctx))
	orphans, err := m.orphans(ctx, known)
	for id := range orphans {
		m.teardown(id)
	}
	report.Orphans = len(orphans)
	return report, errors.Join(append(errs, err)...)
}

func (m *Manager) makeDirs() error {
	if err := m.dirs.Open(); err != nil {
		return err
	}
	if err := os.MkdirAll(m.opts.LogDir, 0o750); err != nil {
		return fmt.Errorf("make log directory: %w", err)
	}
	return nil
}

// adopt takes up one clone. None means that it is to be torn down.
func (m *Manager) adopt(ctx context.Context, info runtime.ContainerInfo) (*clone, error) {
	rec, err := parseRecord(info.Record)
	switch {
	case errdefs.IsFailedPrecondition(err):
		return nil, fmt.Errorf("adopt clone %s: %w", info.ID, err)
	case err != nil:
		m.log.Error("clone without a record is removed", "clone", info.ID, "error", err)
		return nil, nil
	case !rec.Ready || rec.ID != info.ID:
		return nil, nil
	}
	if rec.ExpiresAt != nil {
		now := time.Now()
		left := rec.ExpiresAt.Sub(now)
		if left <= 0 {
			return nil, nil
		}
		at := now.Add(left) // the same time, with a reading of the monotonic clock
		rec.ExpiresAt = &at
	}
	golden, err := m.opts.Store.Golden(ctx, snapshot.Ref{Name: rec.Golden, Version: rec.Version})
	if err != nil {
		return nil, ignoreNotFound(fmt.Errorf("adopt clone %s: %w", info.ID, err))
	}
	engine, err := m.opts.Engines.Engine(rec.Engine)
	if err != nil {
		return nil, fmt.Errorf("adopt clone %s: no engine %q: %w", info.ID, rec.Engine, errdefs.ErrFailedPrecondition)
	}
	if rec.Member {
		process, err := engine.Server(golden, serverSettings(engine, nil, m.opts.Limits.Clone))
		if err != nil || fingerprint(process) != rec.Process {
			return nil, nil // it was started by another version of us
		}
	}
	task, err := m.opts.Runner.Load(ctx, info.ID)
	if err != nil {
		return nil, ignoreNotFound(fmt.Errorf("adopt clone %s: %w", info.ID, err))
	}
	exits, err := task.Wait(m.ctx)
	if err != nil {
		return nil, ignoreNotFound(fmt.Errorf("adopt clone %s: %w", info.ID, err))
	}
	rec.PID = task.PID()
	if rec.Isolation == "" { // of a release that did not record it
		rec.Isolation = isolationOf(rec.PID)
	}
	if rec.Member && rec.Isolation != isolation(m.opts.Runner.Isolation()) {
		return nil, nil // ordinary users may get it
	}
	c := &clone{
		id: info.ID, golden: golden, engine: engine, task: task, rec: rec,
		died: make(chan struct{}), gone: make(chan struct{}),
	}
	if !rec.Member && rec.OwnerUID != 0 { // it may be of a release that gave him the directory
		if err := m.dirs.Admit(c.id, rec.OwnerUID); err != nil {
			return nil, ignoreNotFound(fmt.Errorf("adopt clone %s: %w", info.ID, err))
		}
	}
	m.own(c.id)
	m.wg.Go(func() { m.watch(c, exits) })
	if rec.Member {
		c.proc = openPID(rec.PID)
		m.pool.Adopt(golden, c)
	} else {
		m.readmit(c)
	}
	return c, nil
}

func (m *Manager) readmit(c *clone) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.attach(c)
	m.leases.Resume(c.rec.OwnerUID, c.rec.Holder, lease.Clone{ID: c.id, Life: c.rec.life()})
}

func ignoreNotFound(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// orphans returns the ids of clones of which there is anything but a container.
func (m *Manager) orphans(ctx context.Context, known map[string]bool) (map[string]bool, error) {
	found := map[string]bool{}
	var errs []error
	for _, list := range []func(context.Context) ([]string, error){
		m.opts.Store.Clones, m.opts.Network.Namespaces, m.published, func(context.Context) ([]string, error) { return m.dirs.IDs() }, dirLister(m.opts.LogDir),
	} {
		ids, err := list(ctx)
		if err != nil {
			errs = append(errs, fmt.Errorf("find leftovers of clones: %w", err))
		}
		for _, id := range ids {
			found[id] = true
		}
	}
	maps.DeleteFunc(found, func(id string, _ bool) bool { return known[id] || !kind.Clone.Is(id) })
	return found, errors.Join(errs...)
}

// dirLister returns the names in a directory, without ".log".
func dirLister(dir string) func(context.Context) ([]string, error) {
	return func(context.Context) ([]string, error) {
		entries, err := os.ReadDir(dir)
		ids := make([]string, 0, len(entries))
		for _, e := range entries {
			ids = append(ids, strings.TrimSuffix(e.Name(), ".log"))
		}
		return ids, err
	}
}
