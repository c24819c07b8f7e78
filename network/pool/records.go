package pool

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/network"
)

// records are the files that say what a namespace is for. They hold the
// namespace as JSON; their place says the rest. Nothing is synced: they are
// void after a reboot, as the namespaces are.
type records struct{ dir string }

// openRecords makes the directories and removes what was being written.
func openRecords(dir string) (*records, error) {
	if !filepath.IsAbs(dir) {
		return nil, fmt.Errorf("directory %q is not an absolute path: %w", dir, errdefs.ErrInvalidArgument)
	}
	r := &records{dir}
	for _, d := range []string{r.path("spare"), r.path("taken")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	return r, os.RemoveAll(r.path("new"))
}

func (r *records) path(elem ...string) string {
	return filepath.Join(append([]string{r.dir}, elem...)...)
}

// add records a namespace as spare, whole or not at all.
func (r *records) add(ns network.Namespace) error {
	doc, err := json.Marshal(ns)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(r.path("new"), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(r.path("new", ns.ID), doc, 0o600); err != nil {
		return err
	}
	return os.Rename(r.path("new", ns.ID), r.path("spare", ns.ID))
}

// take makes the spare namespace inner that of id.
func (r *records) take(inner, id string) error {
	err := unix.Renameat2(unix.AT_FDCWD, r.path("spare", inner), unix.AT_FDCWD, r.path("taken", id), unix.RENAME_NOREPLACE)
	if err != nil {
		return &os.LinkError{Op: "rename", Old: r.path("spare", inner), New: r.path("taken", id), Err: err}
	}
	return nil
}

// drop removes the record of a spare namespace.
func (r *records) drop(inner string) error { return ignoreMissing(os.Remove(r.path("spare", inner))) }

// forget removes the record of id.
func (r *records) forget(id string) error { return ignoreMissing(os.Remove(r.path("taken", id))) }

func (r *records) isTaken(id string) bool {
	_, err := os.Lstat(r.path("taken", id))
	return err == nil
}

// get returns the namespace of id.
func (r *records) get(id string) (network.Namespace, error) { return read(r.path("taken", id)) }

// ids lists the ids that have a namespace.
func (r *records) ids() ([]string, error) { return names(r.path("taken")) }

// taken returns the namespaces of ids, spare those of none.
func (r *records) taken() ([]network.Namespace, error) { return readAll(r.path("taken")) }
func (r *records) spare() ([]network.Namespace, error) { return readAll(r.path("spare")) }

// removeAll removes all records.
func (r *records) removeAll() error { return os.RemoveAll(r.dir) }

func read(path string) (ns network.Namespace, _ error) {
	doc, err := os.ReadFile(path)
	if err != nil {
		return ns, err
	}
	if err := json.Unmarshal(doc, &ns); err != nil || !ours(ns.ID) {
		return ns, fmt.Errorf("read record %s: %w: %w", path, errors.Join(err, errdefs.ErrDataLoss), fs.ErrInvalid)
	}
	return ns, nil
}

func readAll(dir string) ([]network.Namespace, error) {
	files, err := names(dir)
	if err != nil {
		return nil, err
	}
	all := make([]network.Namespace, 0, len(files))
	for _, f := range files {
		ns, err := read(filepath.Join(dir, f))
		if err != nil {
			return nil, err
		}
		all = append(all, ns)
	}
	return all, nil
}

func names(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err := ignoreMissing(err); err != nil {
		return nil, err
	}
	list := make([]string, 0, len(entries))
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list, nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
