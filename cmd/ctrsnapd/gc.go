package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/build"
	runner "github.com/ctrsnap/ctrsnap/runtime/containerd"
	"github.com/ctrsnap/ctrsnap/runtime/gc"
	"github.com/ctrsnap/ctrsnap/runtime/manager"
	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/storage"
)

// idRE finds the id of a clone, build or sandbox in a path.
var idRE = regexp.MustCompile(`(?:^|/)([cbs][0-9a-z]{11})(?:\.log)?(?:/|$)`)

// ownerOf returns the id in a path, "" if there is none.
func ownerOf(path string) string {
	if m := idRE.FindStringSubmatch(path); m != nil {
		return m[1]
	}
	return ""
}

// nobody is the owner of what nobody can have.
func nobody(string) string { return "" }

// kinds are all that clones, builds and shims consist of, in the order of removal:
// what holds something goes before what it holds.
func (d *daemon) kinds() []gc.Kind {
	list := []gc.Kind{
		{Name: "containers", List: d.containerIDs, Remove: d.runner.Delete},
		{Name: "cgroups", List: func(context.Context) ([]string, error) { return d.runner.Cgroups() }, Remove: d.runner.RemoveCgroup},
		{Name: "mounts", List: d.mounts, Owner: ownerOf, Remove: func(_ context.Context, path string) error {
			return mount.UnmountRecursive(path, unix.MNT_DETACH)
		}},
		{Name: "published ports", List: d.publish.Published, Remove: d.publish.Unpublish},
		{Name: "further interfaces", List: func(context.Context) ([]string, error) { return d.attach.IDs() }, Remove: d.attach.Forget},
		{Name: "namespaces", List: d.network.Namespaces, Remove: d.network.Remove},
		{Name: "interfaces and addresses", List: d.network.Loose, Owner: nobody, Remove: d.removeLoose},
		{Name: "firewall rules", List: d.strayRules, Owner: nobody, Remove: d.cleanRules},
		{Name: "fifos", List: func(context.Context) ([]string, error) { return d.runner.LooseFIFOs() }, Owner: nobody, Remove: func(_ context.Context, path string) error {
			return os.RemoveAll(path)
		}},
		{Name: "snapshots", List: d.store.Clones, Remove: d.store.Remove},
		{Name: "build snapshots", List: d.store.Builds, Remove: d.store.RemoveBuild},
		{Name: "loop devices", List: d.loops, Owner: nobody, Remove: func(_ context.Context, dev string) error { return storage.Detach(dev) }},
		{Name: "directories", List: d.directories, Owner: ownerOf, Remove: func(_ context.Context, path string) error { return os.RemoveAll(path) }},
	}
	if !d.containerd.Embedded() { // the host's containerd has shims and sockets of its own keeping
		return list
	}
	address := d.containerd.Address()
	shims := gc.Kind{
		Name: "shims", List: func(context.Context) ([]string, error) { return runner.ShimIDs(address) },
		Remove: func(_ context.Context, id string) error { return runner.KillShims(id, address) },
	}
	sockets := gc.Kind{
		Name: "sockets of shims", List: d.deadSockets, Owner: nobody,
		Remove: func(_ context.Context, path string) error { return os.Remove(path) },
	}
	return append(slices.Insert(list, 1, shims), sockets)
}

// owners returns the ids of all that somebody has, or that is being made or removed.
func (d *daemon) owners(ctx context.Context) (map[string]bool, error) {
	sandboxes, err := d.containerd.Client().SandboxStore().List(namespaces.WithNamespace(ctx, snapshot.Namespace))
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	ids := d.manager.IDs()
	for _, id := range d.builder.IDs() {
		ids[id] = true
	}
	for _, s := range sandboxes {
		ids[s.ID] = true
	}
	return ids, nil
}

func (d *daemon) containerIDs(ctx context.Context) (ids []string, _ error) {
	for _, kind := range []string{manager.KindClone, build.KindBuild} {
		list, err := d.runner.Containers(ctx, map[string]string{manager.KindLabel: kind})
		if err != nil {
			return nil, err
		}
		for _, c := range list {
			ids = append(ids, c.ID)
		}
	}
	return ids, nil
}

// mounts lists what is mounted below our directories for clones and builds.
func (d *daemon) mounts(context.Context) (paths []string, _ error) {
	state, err := filepath.EvalSymlinks(d.cfg.State)
	if err != nil {
		return nil, err
	}
	all, err := mountinfo.GetMounts(mountinfo.PrefixFilter(state))
	for _, m := range all {
		if ownerOf(m.Mountpoint) != "" {
			paths = append(paths, m.Mountpoint)
		}
	}
	return paths, err
}

// removeLoose frees what a network has of an id without a namespace.
func (d *daemon) removeLoose(ctx context.Context, _ string) error {
	ids, err := d.network.Namespaces(ctx)
	if err != nil {
		return err
	}
	return d.network.Reconcile(ctx, ids)
}

// strayRules lists rules of the host that are of no clone. Those within a clone's namespace go with it.
func (d *daemon) strayRules(ctx context.Context) ([]string, error) {
	if d.bridge == nil {
		return nil, nil
	}
	return d.bridge.StrayRules(ctx)
}

func (d *daemon) cleanRules(ctx context.Context, _ string) error { return d.bridge.CleanRules(ctx) }

func (d *daemon) loops(context.Context) ([]string, error) {
	root, err := filepath.EvalSymlinks(d.cfg.Root)
	if err != nil {
		return nil, err
	}
	return storage.Loops(root)
}

// directories lists those of clones and builds, their logs, and those of tasks.
func (d *daemon) directories(context.Context) (paths []string, _ error) {
	const tasks = "io.containerd.runtime.v2.task/" + snapshot.Namespace
	globs := []string{d.state("clones", "*"), d.state("builds", "*"), d.stored("spool", "*"), d.stored("logs", "c*.log")}
	if d.containerd.Embedded() {
		globs = append(globs, d.state("containerd", tasks, "*"), d.stored("containerd", tasks, "*"))
	}
	for _, g := range globs {
		list, err := filepath.Glob(g)
		if err != nil {
			return nil, err
		}
		for _, path := range list {
			if ownerOf(path) != "" {
				paths = append(paths, path)
			}
		}
	}
	return paths, nil
}

// deadSockets lists the sockets of shims that no process has, by proc_net(5), unix,
// and at which nobody answers: one that is bound may not listen yet, and the kernel
// can leave one out of its list while others come and go.
func (d *daemon) deadSockets(context.Context) ([]string, error) {
	paths, err := filepath.Glob(d.state("containerd", "s", "*")) // before those that live
	if err != nil || len(paths) == 0 {
		return nil, err
	}
	f, err := os.Open("/proc/net/unix")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	alive := map[string]bool{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if i := strings.IndexByte(lines.Text(), '/'); i >= 0 {
			alive[lines.Text()[i:]] = true
		}
	}
	return slices.DeleteFunc(paths, func(p string) bool {
		fi, err := os.Lstat(p)
		return alive[p] || err != nil || fi.Mode()&fs.ModeSocket == 0 || !refuses(p)
	}), lines.Err()
}

// refuses says that nobody listens at a socket.
func refuses(path string) bool {
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		c.Close()
	}
	return errors.Is(err, unix.ECONNREFUSED)
}

// GC finds what nobody has, and removes it if it is told to.
func (d *daemon) GC(ctx context.Context, remove bool) api.GC {
	do := gc.Find
	if remove {
		do = gc.Remove
	}
	r := api.GC{Schema: api.Schema, Removed: remove, Start: d.started}
	for _, f := range do(ctx, d.kinds(), d.owners) {
		r.Kinds = append(r.Kinds, describeFound(f))
		if f.Err != nil {
			d.log.Error("collect garbage", "kind", f.Kind, "error", f.Err)
		}
	}
	return r
}

func describeFound(f gc.Found) api.GCKind {
	k := api.GCKind{Kind: f.Kind, Used: f.Used, Orphans: f.Orphans}
	if k.Orphans == nil {
		k.Orphans = []string{}
	}
	var joined interface{ Unwrap() []error }
	switch {
	case errors.As(f.Err, &joined):
		for _, err := range joined.Unwrap() {
			k.Errors = append(k.Errors, err.Error())
		}
	case f.Err != nil:
		k.Errors = []string{f.Err.Error()}
	}
	return k
}
