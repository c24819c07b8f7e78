package bridge

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ctrsnap/ctrsnap/network"
)

// leaseDir holds a file for each namespace with options, by id: what the
// firewall is to be told of it after a restart.
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
	half := d.path("." + id)
	if err := os.WriteFile(half, doc, 0o600); err != nil {
		return err
	}
	return os.Rename(half, d.path(id))
}

func (d leaseDir) read(id string) (opts network.Options, _ error) {
	doc, err := os.ReadFile(d.path(id))
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

func (d leaseDir) remove(id string) error {
	if err := os.Remove(d.path(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forget lease of %s: %w", id, err)
	}
	return nil
}

func (d leaseDir) removeAll() error { return os.RemoveAll(string(d)) }
