package bridge

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/network"
)

// leaseDir holds a record for each namespace with options, by id: what the
// firewall is to be told of it after a restart. A record is a symbolic link that
// leads nowhere: its target, the options as JSON, is there whole or not at all, by
// one system call on the way to a clone. See symlink(7).
type leaseDir string

func (d leaseDir) path(id string) string { return filepath.Join(string(d), id) }

// open makes the directory and removes what was being written.
func (d leaseDir) open() error {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return err
	}
	half, err := filepath.Glob(d.path(".*"))
	for _, path := range half {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

// write records options, whole or not at all. None need no file.
func (d leaseDir) write(id string, opts network.Options) error {
	if opts.Addr = (network.Options{}).Addr; opts == (network.Options{}) {
		return d.remove(id)
	}
	doc, err := json.Marshal(opts)
	if err != nil {
		return err
	}
	err = os.Symlink(string(doc), d.path(id))
	if !errors.Is(err, os.ErrExist) {
		return err
	}
	half := d.path("." + id)
	if err := os.Symlink(string(doc), half); err != nil {
		return err
	}
	return os.Rename(half, d.path(id))
}

func (d leaseDir) read(id string) (opts network.Options, _ error) {
	doc, err := d.document(id)
	if errors.Is(err, os.ErrNotExist) {
		return opts, nil
	}
	if err == nil {
		err = json.Unmarshal(doc, &opts)
	}
	if err != nil {
		return opts, fmt.Errorf("read lease of %s: %w", id, err)
	}
	return opts, nil
}

// document is a record's text; one of an earlier version is a file.
func (d leaseDir) document(id string) ([]byte, error) {
	target, err := os.Readlink(d.path(id))
	if errors.Is(err, unix.EINVAL) {
		return os.ReadFile(d.path(id))
	}
	return []byte(target), err
}

func (d leaseDir) remove(id string) error {
	if err := os.Remove(d.path(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forget lease of %s: %w", id, err)
	}
	return nil
}

func (d leaseDir) removeAll() error { return os.RemoveAll(string(d)) }
