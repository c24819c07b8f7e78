package manager

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/rundir"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// host is what clones are made of, and how their makers are watched.
type host struct {
	store   snapshot.Store
	network network.Provider
	runner  runtime.Runner
	files   files
	step    func(string) error // see Options.Failpoint
	log     *slog.Logger
}

// files are the directory and the log of each clone.
type files struct {
	rundir.Dirs
	logs string // directory of ID.log
}

func (f files) open() error {
	if err := f.Open(); err != nil {
		return err
	}
	if err := os.MkdirAll(f.logs, 0o750); err != nil {
		return fmt.Errorf("make log directory: %w", err)
	}
	return nil
}

func (f files) log(id string) string { return filepath.Join(f.logs, id+".log") }

// make makes a clone's. uid, if not root's, may have its socket.
func (f files) make(id string, uid int) error {
	err := f.Make(id)
	if err == nil && uid > 0 {
		err = f.Admit(id, uid)
	}
	if err != nil {
		return err
	}
	log, err := os.OpenFile(f.log(id), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("make log file: %w", err)
	}
	return log.Close()
}

// remove is idempotent.
func (f files) remove(id string) error {
	err := os.Remove(f.log(id))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(f.Remove(id), err)
}

// ids lists the clones that have either, some of them twice.
func (f files) ids() ([]string, error) {
	ids, err := f.IDs()
	logs, lerr := os.ReadDir(f.logs)
	for _, e := range logs {
		ids = append(ids, strings.TrimSuffix(e.Name(), ".log"))
	}
	return ids, errors.Join(err, lerr)
}
