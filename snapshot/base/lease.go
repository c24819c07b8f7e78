package base

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// workTime is how long unfinished work is kept if nobody calls Reconcile.
const workTime = 24 * time.Hour

// work returns a context whose lease holds everything that is made with it,
// and a function that ends the lease. After an error the function returns
// when all of it that nobody else holds is gone.
func (m *Maker) work(ctx context.Context) (context.Context, func(error) error, error) {
	manager := m.client.LeasesService()
	l, err := manager.Create(ctx, leases.WithRandomID(), leases.WithExpiration(workTime),
		leases.WithLabel(snapshot.LabelKind, kindWork))
	if err != nil {
		return nil, nil, fmt.Errorf("create lease: %w", err)
	}
	end := func(failed error) error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		var opts []leases.DeleteOpt
		if failed != nil {
			opts = append(opts, leases.SynchronousDelete)
		}
		if err := manager.Delete(ctx, l, opts...); err != nil {
			return fmt.Errorf("delete lease: %w", err)
		}
		return nil
	}
	return leases.WithLease(ctx, l.ID), end, nil
}

// hold keeps the resources of the base name until Options.Keep from now. They
// need not exist yet. A lease cannot be prolonged: a new one takes over before
// the old ones go.
func (m *Maker) hold(ctx context.Context, name string, resources ...leases.Resource) error {
	manager := m.client.LeasesService()
	old, err := manager.List(ctx, fmt.Sprintf("labels.%q==%q,labels.%q==%q", snapshot.LabelKind, kindBase, labelBase, name))
	if err != nil {
		return fmt.Errorf("list leases of %s: %w", name, err)
	}
	l, err := manager.Create(ctx, leases.WithRandomID(), leases.WithExpiration(m.opts.Keep),
		leases.WithLabels(map[string]string{snapshot.LabelKind: kindBase, labelBase: name}))
	if err != nil {
		return fmt.Errorf("create lease of %s: %w", name, err)
	}
	for _, r := range resources {
		if err := manager.AddResource(ctx, l, r); err != nil {
			return fmt.Errorf("hold %s: %w", name, err)
		}
	}
	for _, o := range old {
		if err := manager.Delete(ctx, o); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("delete lease of %s: %w", name, err)
		}
	}
	return nil
}

func snapshotResource(key string) leases.Resource {
	return leases.Resource{ID: key, Type: "snapshots/" + snapshot.Snapshotter}
}

func contentResource(d digest.Digest) leases.Resource {
	return leases.Resource{ID: d.String(), Type: "content"}
}
