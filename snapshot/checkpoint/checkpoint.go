// Package checkpoint makes metadata survive power loss that containerd writes
// without syncing: a copy of both of its databases, taken when a golden changes,
// and put in their place at the first start after the machine was.
package checkpoint

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/plugins"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/overlay"
)

// kept is how many checkpoints stay on disk: the last, and one for the day that
// it turns out to be damaged.
const kept = 2

// Options say where things are.
type Options struct {
	Dir  string // directory of checkpoints; nothing else is there
	Root string // containerd's root; on the filesystem of the snapshots
	// External says that containerd and its databases are somebody else's: they are
	// neither read nor replaced, and only the boot is known.
	External bool
	// BootID returns what differs from one start of the machine to the next.
	// nil means the kernel's (proc(5), /proc/sys/kernel/random/boot_id).
	BootID func() (string, error)

	// Failpoint is called before each step of Save and Restore; tests make it fail.
	Failpoint func(step string) error
}

// Checkpoint takes checkpoints of a running containerd.
type Checkpoint struct {
	opts      Options
	metadata  *metadata.DB
	snapshots *overlay.Snapshotter

	mu sync.Mutex // one Save at a time
}

// New returns a Checkpoint of the databases of an embedded containerd.
func New(o Options, db *metadata.DB, sn *overlay.Snapshotter) *Checkpoint {
	return &Checkpoint{opts: o.complete(), metadata: db, snapshots: sn}
}

func (o Options) complete() Options {
	if o.BootID == nil {
		o.BootID = kernelBootID
	}
	if o.Failpoint == nil {
		o.Failpoint = func(string) error { return nil }
	}
	return o
}

func kernelBootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}

// live returns where containerd has a database open.
func (o Options) live(name string) string {
	switch name {
	case fileSnapshots:
		return filepath.Join(o.Root, plugins.SnapshotPlugin.String()+"."+snapshot.Snapshotter, overlay.MetadataFile)
	default:
		return filepath.Join(o.Root, plugins.MetadataPlugin.String()+".bolt", "meta.db")
	}
}

// Save takes a checkpoint of what is now. When it returns nil, all metadata
// written before it was called, and every file of Root's filesystem, survive
// power loss. Writers go on meanwhile, except for an instant.
func (c *Checkpoint) Save(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.save(ctx); err != nil {
		return fmt.Errorf("checkpoint metadata in %s: %w", c.opts.Dir, err)
	}
	return nil
}

func (c *Checkpoint) save(ctx context.Context) error {
	cut, err := c.cut(ctx)
	if err != nil {
		return err
	}
	defer cut.close()
	// What the cut speaks of has to be on disk before the cut is.
	if err := c.opts.step("sync", func() error { return syncfs(c.opts.Root) }); err != nil {
		return err
	}
	tmp := filepath.Join(c.opts.Dir, "new")
	if err := c.opts.step("write", func() error { return c.write(tmp, cut) }); err != nil {
		return err
	}
	old, err := list(c.opts.Dir)
	if err != nil {
		return err
	}
	next := 1
	if len(old) > 0 {
		next = old[0] + 1
	}
	if err := c.opts.step("rename", func() error { return os.Rename(tmp, path(c.opts.Dir, next)) }); err != nil {
		return err
	}
	if err := syncDir(c.opts.Dir); err != nil {
		return err
	}
	return c.opts.step("prune", func() error { return prune(c.opts.Dir, old) })
}

// write puts a whole and synced checkpoint into the directory tmp.
func (c *Checkpoint) write(tmp string, cut *cut) error {
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := os.MkdirAll(tmp, 0o700); err != nil {
		return err
	}
	boot, err := c.opts.BootID()
	if err != nil {
		return err
	}
	m := manifest{Schema: schema, BootID: boot, Created: time.Now().UTC(), Files: map[string]file{}}
	for _, name := range files {
		if m.Files[name], err = writeFile(filepath.Join(tmp, name), cut.of(name)); err != nil {
			return err
		}
	}
	if err := m.write(tmp); err != nil {
		return err
	}
	return syncDir(tmp)
}

// step does one step unless the failpoint fails.
func (o Options) step(name string, do func() error) error {
	if err := o.Failpoint(name); err != nil {
		return err
	}
	return do()
}

// list returns the numbers of the checkpoints in dir, newest first.
func list(dir string) ([]int, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	var numbers []int
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil && e.IsDir() {
			numbers = append(numbers, n)
		}
	}
	slices.SortFunc(numbers, func(a, b int) int { return cmp.Compare(b, a) })
	return numbers, nil
}

// path returns the directory of checkpoint n.
func path(dir string, n int) string { return filepath.Join(dir, fmt.Sprintf("%08d", n)) }

// prune removes all of old, newest first, that a new checkpoint makes too many.
func prune(dir string, old []int) error {
	for i, n := range old {
		if i+1 < kept {
			continue
		}
		if err := os.RemoveAll(path(dir, n)); err != nil {
			return err
		}
	}
	return nil
}

// writeFile writes and syncs a new file, and returns its size and checksum.
func writeFile(name string, from io.WriterTo) (file, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return file{}, err
	}
	defer f.Close()
	sum := newChecksum()
	n, err := from.WriteTo(io.MultiWriter(f, sum))
	if err != nil {
		return file{}, err
	}
	return file{Size: n, SHA256: sum.hex()}, f.Sync()
}

// syncDir makes the entries of a directory durable.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// syncfs writes all of a filesystem to disk.
func syncfs(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return &os.PathError{Op: "syncfs", Path: dir, Err: err}
	}
	return nil
}
