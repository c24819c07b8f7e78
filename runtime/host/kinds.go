package host

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/containerd"
	"github.com/ctrsnap/ctrsnap/runtime/gc"
	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/storage"
)

// Parts have what clones, builds and shims consist of.
type Parts struct {
	Dirs
	Address    string // of the containerd in this process; the host's has shims and sockets of its own keeping
	Runner     Runner
	Store      Store
	Network    Network
	Rules      Rules // nil: the network has none
	Ports      Ports
	Interfaces Interfaces
	Clones     interface{ IDs() map[string]bool }
	Builds     interface{ IDs() []string }
	Sandboxes  func(context.Context) (ids []string, err error)
}

// Runner is what has containers: see [containerd.Runner].
type Runner interface {
	Containers(ctx context.Context, labels map[string]string) ([]runtime.ContainerInfo, error)
	Delete(ctx context.Context, id string) error
	Cgroups() ([]string, error)
	RemoveCgroup(ctx context.Context, id string) error
	LooseFIFOs() ([]string, error)
}

// Store is what has the snapshots of clones and builds.
type Store interface {
	Clones(context.Context) ([]string, error)
	Remove(ctx context.Context, id string) error
	Builds(context.Context) ([]string, error)
	RemoveBuild(ctx context.Context, id string) error
}

// Network is what has network namespaces, and what belongs to none that is left.
type Network interface {
	Namespaces(context.Context) ([]string, error)
	Remove(ctx context.Context, id string) error
	Loose(context.Context) ([]string, error)
	Reconcile(ctx context.Context, keep []string) error
}

// Rules are those of the host's firewall. Those within a clone's namespace go with it.
type Rules interface {
	StrayRules(context.Context) ([]string, error)
	CleanRules(context.Context) error
}

// Ports are those of the host that lead to clones.
type Ports interface {
	Published(context.Context) ([]string, error)
	Unpublish(ctx context.Context, id string) error
}

// Interfaces are those that clones were given beside their first.
type Interfaces interface {
	IDs() ([]string, error)
	Forget(ctx context.Context, id string) error
}

// Kinds are all sorts, in the order of removal: what holds something goes before what it holds.
func (p *Parts) Kinds() []gc.Kind {
	list := []gc.Kind{
		{Name: "containers", List: p.containers, Remove: p.Runner.Delete},
		{Name: "cgroups", List: without(p.Runner.Cgroups), Remove: p.Runner.RemoveCgroup},
		{Name: "mounts", List: without(p.mounts), Owner: OwnerOf, Remove: byPath(func(path string) error {
			return mount.UnmountRecursive(path, unix.MNT_DETACH)
		})},
		{Name: "published ports", List: p.Ports.Published, Remove: p.Ports.Unpublish},
		{Name: "further interfaces", List: without(p.Interfaces.IDs), Remove: p.Interfaces.Forget},
		{Name: "namespaces", List: p.Network.Namespaces, Remove: p.Network.Remove},
		{Name: "interfaces and addresses", List: p.Network.Loose, Owner: nobody, Remove: p.removeLoose},
		{Name: "firewall rules", List: p.strayRules, Owner: nobody, Remove: p.cleanRules},
		{Name: "fifos", List: without(p.Runner.LooseFIFOs), Owner: nobody, Remove: byPath(os.RemoveAll)},
		{Name: "snapshots", List: p.Store.Clones, Remove: p.Store.Remove},
		{Name: "build snapshots", List: p.Store.Builds, Remove: p.Store.RemoveBuild},
		{Name: "loop devices", List: without(p.loops), Owner: nobody, Remove: byPath(storage.Detach)},
		{Name: "directories", List: without(p.allDirectories), Owner: OwnerOf, Remove: byPath(os.RemoveAll)},
	}
	if p.Address == "" {
		return list
	}
	shims := gc.Kind{
		Name: "shims", List: without(func() ([]string, error) { return containerd.ShimIDs(p.Address) }),
		Remove: byPath(func(id string) error { return containerd.KillShims(id, p.Address) }),
	}
	sockets := gc.Kind{Name: "sockets of shims", List: without(p.deadSockets), Owner: nobody, Remove: byPath(os.Remove)}
	return append(slices.Insert(list, 1, shims), sockets)
}

// without lists what is listed without a context.
func without(list func() ([]string, error)) func(context.Context) ([]string, error) {
	return func(context.Context) ([]string, error) { return list() }
}

// byPath removes what is removed by its name alone.
func byPath(remove func(string) error) func(context.Context, string) error {
	return func(_ context.Context, path string) error { return remove(path) }
}

// nobody is the owner of what nobody can have.
func nobody(string) string { return "" }

// Owners returns the ids of all that somebody has, or that is being made or removed.
func (p *Parts) Owners(ctx context.Context) (map[string]bool, error) {
	sandboxes, err := p.Sandboxes(ctx)
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	ids := p.Clones.IDs()
	for _, id := range append(sandboxes, p.Builds.IDs()...) {
		ids[id] = true
	}
	return ids, nil
}

func (p *Parts) containers(ctx context.Context) (ids []string, _ error) {
	for _, kind := range []string{snapshot.KindClone, snapshot.KindBuild} {
		list, err := p.Runner.Containers(ctx, map[string]string{snapshot.LabelKind: kind})
		if err != nil {
			return nil, err
		}
		for _, c := range list {
			ids = append(ids, c.ID)
		}
	}
	return ids, nil
}

// removeLoose frees what a network has of an id without a namespace.
func (p *Parts) removeLoose(ctx context.Context, _ string) error {
	ids, err := p.Network.Namespaces(ctx)
	if err != nil {
		return err
	}
	return p.Network.Reconcile(ctx, ids)
}

func (p *Parts) strayRules(ctx context.Context) ([]string, error) {
	if p.Rules == nil {
		return nil, nil
	}
	return p.Rules.StrayRules(ctx)
}

func (p *Parts) allDirectories() ([]string, error) { return p.directories(p.Address != "") }

func (p *Parts) cleanRules(ctx context.Context, _ string) error { return p.Rules.CleanRules(ctx) }
