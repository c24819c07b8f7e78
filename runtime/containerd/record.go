package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
)

// A container's first record is kept with it in containerd. Those after it are files in
// RecordDir: containerd would write the whole container anew, specification and all, in a
// transaction that all others wait for, which is the largest part of a claim. What is lost
// with that directory, at a reboot, are records of containers that have ended.

// SetRecord replaces the record of a container. Calls for one container must not
// overlap.
func (r *Runner) SetRecord(ctx context.Context, id string, record []byte) error {
	ctx, cancel := r.begin(ctx)
	defer cancel()
	if _, err := r.client.ContainerService().Get(ctx, id); err != nil {
		return fmt.Errorf("update record of container %s: %w", id, err)
	}
	if err := r.writeRecord(id, record); err != nil {
		return fmt.Errorf("update record of container %s: %w", id, err)
	}
	return nil
}

// writeRecord replaces the file at once: whoever reads it, after a crash too, has the old
// one or the new.
func (r *Runner) writeRecord(id string, record []byte) error {
	path := r.recordPath(id)
	err := os.WriteFile(path+".new", record, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(r.opts.RecordDir, 0o700); err == nil {
			err = os.WriteFile(path+".new", record, 0o600)
		}
	}
	if err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// readRecord returns what SetRecord wrote last, or first.
func (r *Runner) readRecord(id string, first []byte) ([]byte, error) {
	record, err := os.ReadFile(r.recordPath(id))
	if errors.Is(err, fs.ErrNotExist) {
		return first, nil
	}
	return record, err
}

func (r *Runner) removeRecord(id string) error {
	err := os.Remove(r.recordPath(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (r *Runner) recordPath(id string) string { return filepath.Join(r.opts.RecordDir, id) }

// RemoveRecords removes what is left of records whose container is gone, and of those that were
// being written, and returns how many these were. It is for the start of a daemon: no record
// may be set meanwhile.
func (r *Runner) RemoveRecords(ctx context.Context) (int, error) {
	entries, err := os.ReadDir(r.opts.RecordDir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("list records: %w", err)
	}
	ctx, cancel := r.begin(ctx)
	defer cancel()
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool {
		_, err := r.client.ContainerService().Get(ctx, e.Name())
		return err == nil || !errdefs.IsNotFound(err) && !errdefs.IsInvalidArgument(err)
	})
	for _, e := range entries {
		if err := os.Remove(filepath.Join(r.opts.RecordDir, e.Name())); err != nil {
			return 0, fmt.Errorf("remove record: %w", err)
		}
	}
	return len(entries), nil
}
