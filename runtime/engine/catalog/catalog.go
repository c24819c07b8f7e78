// Package catalog keeps the engines of a daemon: those that are built in, and
// those that users described by files.
package catalog

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/engine/described"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// Catalog finds engines by name. It is safe for concurrent use.
type Catalog struct {
	dir     string
	builtIn map[string]runtime.Engine

	mu    sync.RWMutex
	added map[string]Entry
}

// Entry is an engine that a file describes.
type Entry struct {
	Engine *described.Engine
	Text   string // of the file
	Added  time.Time
}

var _ runtime.Engines = (*Catalog)(nil)

// Open reads the descriptions in dir, which is made if need be. One that cannot be
// read is an error in damaged, and no reason to serve no others.
func Open(dir string, builtIn ...runtime.Engine) (c *Catalog, damaged error, err error) {
	c = &Catalog{dir: dir, builtIn: map[string]runtime.Engine{}, added: map[string]Entry{}}
	for _, e := range builtIn {
		c.builtIn[e.Name()] = e
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("make directory of engines: %w", err)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("read directory of engines: %w", err)
	}
	for _, f := range files {
		name, isFile := strings.CutSuffix(f.Name(), ".toml")
		if !isFile {
			continue
		}
		e, err := c.read(name)
		if err != nil {
			damaged = errors.Join(damaged, fmt.Errorf("read engine %s: %w", f.Name(), err))
			continue
		}
		c.added[name] = e
	}
	return c, damaged, nil
}

func (c *Catalog) path(name string) string { return filepath.Join(c.dir, name+".toml") }

func (c *Catalog) read(name string) (Entry, error) {
	text, err := os.ReadFile(c.path(name))
	if err != nil {
		return Entry{}, err
	}
	info, err := os.Stat(c.path(name))
	if err != nil {
		return Entry{}, err
	}
	e, err := described.New(text)
	if err == nil && e.Name() != name {
		err = fmt.Errorf("it describes %s: %w", e.Name(), errdefs.ErrDataLoss)
	}
	return Entry{e, string(text), info.ModTime()}, err
}

// Engine implements [runtime.Engines].
func (c *Catalog) Engine(name string) (runtime.Engine, error) {
	if e, ok := c.builtIn[name]; ok {
		return e, nil
	}
	c.mu.RLock()
	e, ok := c.added[name]
	c.mu.RUnlock()
	if ok {
		return e.Engine, nil
	}
	return nil, snapshot.WithHint(fmt.Errorf("engine %.80q: %w", name, errdefs.ErrNotFound),
		"engines: "+strings.Join(c.Names(), ", ")+"; 'ctrsnap engine add FILE' adds one")
}

// Names implements [runtime.Engines].
func (c *Catalog) Names() []string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.Sorted(func(yield func(string) bool) {
		for _, keys := range []func(func(string) bool){maps.Keys(c.builtIn), maps.Keys(c.added)} {
			for k := range keys {
				if !yield(k) {
					return
				}
			}
		}
	})
}

// Added returns the entry of an engine that a file describes.
func (c *Catalog) Added(name string) (Entry, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	e, ok := c.added[name]
	return e, ok
}

// Add checks a description and keeps it, in place of an earlier one of the same
// name: goldens that were built by that keep it. When it returns, the description
// survives power loss. The name of a built-in engine is AlreadyExists.
func (c *Catalog) Add(text []byte) (Entry, error) {
	e, err := described.New(text)
	if err != nil {
		return Entry{}, err
	}
	if _, ok := c.builtIn[e.Name()]; ok {
		return Entry{}, snapshot.WithHint(fmt.Errorf("engine %s is built in: %w", e.Name(), errdefs.ErrAlreadyExists), "choose another name")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := write(c.path(e.Name()), text); err != nil {
		return Entry{}, fmt.Errorf("keep engine %s: %w", e.Name(), err)
	}
	entry := Entry{e, string(text), time.Now()}
	c.added[e.Name()] = entry
	return entry, nil
}

// write replaces a file at once, and for good.
func write(name string, text []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // it is gone if all went well
	_, err = f.Write(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	return syncDir(filepath.Dir(name))
}

func syncDir(name string) error {
	dir, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Remove forgets a description. The caller has seen that nothing needs it.
func (c *Catalog) Remove(name string) error {
	if _, ok := c.builtIn[name]; ok {
		return fmt.Errorf("engine %s is built in: %w", name, errdefs.ErrFailedPrecondition)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.added[name]; !ok {
		return fmt.Errorf("engine %.80q: %w", name, errdefs.ErrNotFound)
	}
	if err := os.Remove(c.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove engine %s: %w", name, err)
	}
	delete(c.added, name)
	return syncDir(c.dir)
}
