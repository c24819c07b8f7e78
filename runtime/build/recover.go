package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ctrsnap/ctrsnap/network/kind"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// keepLogs is how many build logs are kept, the latest.
const keepLogs = 100

// Report says what Recover has removed: the ids of builds, by what was left
// of them.
type Report struct {
	Containers, Namespaces, RunDirs, Spools []string
}

// Recover removes what builds have left that were under way when the daemon
// ended. It is called before the first build. What it cannot remove it
// reports and leaves. Snapshots are the Store's to reconcile.
func (b *Builder) Recover(ctx context.Context) (Report, error) {
	var r Report
	var errs []error
	for _, step := range []func(context.Context, *Report) error{
		b.recoverContainers, b.recoverNamespaces, b.recoverRunDirs, b.recoverSpools,
	} {
		errs = append(errs, step(ctx, &r))
	}
	b.pruneLogs()
	if err := errors.Join(errs...); err != nil {
		return r, fmt.Errorf("recover builds: %w", err)
	}
	return r, nil
}

func (b *Builder) recoverContainers(ctx context.Context, r *Report) error {
	list, err := b.Runner.Containers(ctx, map[string]string{snapshot.LabelKind: snapshot.KindBuild})
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	var ids []string
	for _, c := range list {
		ids = append(ids, c.ID)
	}
	return each(ids, &r.Containers, func(id string) error { return b.Runner.Delete(ctx, id) })
}

func (b *Builder) recoverNamespaces(ctx context.Context, r *Report) error {
	ids, err := b.Network.Namespaces(ctx)
	if err != nil {
		return fmt.Errorf("list network namespaces: %w", err)
	}
	ids = slices.DeleteFunc(ids, func(id string) bool { return !kind.Build.Is(id) })
	return each(ids, &r.Namespaces, func(id string) error { return b.Network.Remove(ctx, id) })
}

func (b *Builder) recoverRunDirs(_ context.Context, r *Report) error {
	ids, err := entries(b.RunDir, "")
	if err != nil {
		return err
	}
	return each(ids, &r.RunDirs, func(id string) error { return b.removeRunDir(id) })
}

func (b *Builder) recoverSpools(_ context.Context, r *Report) error {
	ids, err := entries(b.SpoolDir, "")
	if err != nil {
		return err
	}
	return each(ids, &r.Spools, func(id string) error { return os.RemoveAll(filepath.Join(b.SpoolDir, id)) })
}

// each calls remove for all ids and collects those that are gone.
func each(ids []string, gone *[]string, remove func(id string) error) error {
	var errs []error
	for _, id := range ids {
		if err := remove(id); err != nil {
			errs = append(errs, fmt.Errorf("remove %s: %w", id, err))
			continue
		}
		*gone = append(*gone, id)
	}
	return errors.Join(errs...)
}

// entries returns the ids of builds that dir has entries of, named ID+suffix.
func entries(dir, suffix string) ([]string, error) {
	list, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var ids []string
	for _, e := range list {
		if id, ok := strings.CutSuffix(e.Name(), suffix); ok && kind.Build.Is(id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// pruneLogs removes all but the latest logs of builds that have ended. That a
// log cannot be removed now is no error: the next build tries again.
func (b *Builder) pruneLogs() {
	ids, _ := entries(b.LogDir, ".log")
	b.mu.Lock()
	ids = slices.DeleteFunc(ids, func(id string) bool { return b.jobs[id] != nil })
	b.mu.Unlock()
	path := func(id string) string { return filepath.Join(b.LogDir, id+".log") }
	age := map[string]time.Duration{}
	for _, id := range ids {
		if fi, err := os.Stat(path(id)); err == nil {
			age[id] = time.Since(fi.ModTime())
		}
	}
	slices.SortFunc(ids, func(x, y string) int { return int(age[x] - age[y]) })
	for _, id := range ids[min(len(ids), keepLogs):] {
		_ = os.Remove(path(id))
	}
}
