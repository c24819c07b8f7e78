package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime/containerd"
	"github.com/ctrsnap/ctrsnap/runtime/patrol"
	snapshots "github.com/ctrsnap/ctrsnap/snapshot/containerd"
	"github.com/ctrsnap/ctrsnap/snapshot/storage"
)

// maxReserve is the most that is kept free, in bytes, unless the configuration says so.
const maxReserve = 10 << 30

// Space looks at the filesystem that holds the layers. Of it reserve bytes are to stay free; 0 chooses.
func Space(s *storage.Storage, reserve int64) (patrol.Space, error) {
	i, err := s.Info()
	if err == nil {
		err = s.Alive()
	}
	if err != nil {
		return patrol.Space{}, err
	}
	if reserve == 0 {
		reserve = min(i.Size/20, maxReserve)
	}
	return patrol.Space{Size: i.Size, Free: i.Available(), Reserve: reserve}, nil
}

// OpenStorage opens the storage. If its filesystem has stopped, after its device had failed or gone, it is mounted
// anew, as after a loss of power: end ends what uses it, and what was not synced is lost, so that goldens are those of
// the last checkpoint. The file lost says so until the checkpoint knows.
func OpenStorage(ctx context.Context, opts storage.Options, lost string, end func(context.Context) error, log *slog.Logger) (*storage.Storage, error) {
	if storage.IsStopped(opts.Dir, opts.Image) {
		log.WarnContext(ctx, "the filesystem of the storage has stopped: clones end, and it is mounted anew", "storage", opts.Dir)
		if err := errors.Join(os.WriteFile(lost, nil, 0o600), end(ctx)); err != nil {
			return nil, fmt.Errorf("end what uses storage %s, which has stopped: %w", opts.Dir, err)
		}
	}
	s, err := storage.Open(ctx, opts)
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(lost); errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err := os.Remove(filepath.Join(s.Dir(), "checkpoint", "boot")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("forget what was not synced: %w", err)
	}
	return s, os.Remove(lost)
}

// EndAll ends what holds the storage: clones, which have lost their files, the shims of the containerd at address,
// and mounts.
func (d Dirs) EndAll(ctx context.Context, r *containerd.Runner, address string) error {
	ids, err := r.Cgroups()
	errs := []error{err}
	for _, id := range ids {
		errs = append(errs, r.RemoveCgroup(ctx, id))
	}
	shims, err := containerd.ShimIDs(address)
	errs = append(errs, err)
	for _, id := range shims {
		errs = append(errs, containerd.KillShims(id, address))
	}
	mounts, err := mountsOf(filepath.Join(d.State, "containerd"))
	errs = append(errs, err)
	for _, path := range mounts {
		errs = append(errs, mount.UnmountRecursive(path, unix.MNT_DETACH))
	}
	return errors.Join(errs...)
}

// runDirOptions are those of filesystems of the state directory that have the directories of clones and of builds.
// Servers write to filesystems of their own below them: see package rundir, and tmpfs(5).
const runDirOptions = "mode=0711,size=128m,nr_inodes=128k"

func (d Dirs) runDirs() []string {
	return []string{filepath.Join(d.State, "clones"), filepath.Join(d.State, "builds")}
}

// MountRunDirs mounts them, but over none in which something is: an earlier daemon, that had
// it elsewhere, has left clones there.
func (d Dirs) MountRunDirs() error {
	for _, dir := range d.runDirs() {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("make run directory: %w", err)
		}
		mounted, err := mountinfo.Mounted(dir)
		if err != nil {
			return fmt.Errorf("look whether %s is mounted: %w", dir, err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		if mounted || len(entries) > 0 {
			continue
		}
		if err := snapshots.MountMemory(dir, runDirOptions); err != nil {
			return err
		}
	}
	return nil
}

// UnmountRunDirs unmounts them, when clones and builds are gone.
func (d Dirs) UnmountRunDirs() (err error) {
	for _, dir := range d.runDirs() {
		err = errors.Join(err, snapshots.UnmountState(dir))
	}
	return err
}
