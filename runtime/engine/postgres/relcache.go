package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime/engine/rootfs"
	"github.com/ctrsnap/ctrsnap/snapshot/foreign"
)

// A server keeps its catalogs' relation cache in a file of each database and one
// for all, and whoever connects reads it. Startup always removes these files: it is
// "necessary" after recovery, and "in theory we could leave them in place if
// the database had been cleanly shut down" (StartupXLOG in xlog.c), as each golden
// was. The first connection then reads the catalogs instead, for 8 to 20 ms. So a
// golden has them under a second name as well, and a clone gets them back when
// its server has removed them.
//
// A file that is put back after a catalog has changed would be wrong. Before the pid
// file says "ready" nothing can change one: clients and autovacuum workers are
// forked by the postmaster's loop, which writes that word before it goes on. A golden
// whose server preloads libraries, which may have workers of their own, has no
// second names, and a clone that is told to preload some does not use them.
const (
	relCache = "pg_internal.init"
	// savedRelCache begins like the server's own temporary names: pg_checksums,
	// pg_basebackup and pg_rewind leave it out.
	savedRelCache = relCache + ".golden"
	// autovacuumRest is the least time from the launcher's start to its first
	// worker: MIN_AUTOVAC_SLEEPTIME in autovacuum.c.
	autovacuumRest = 100 * time.Millisecond
)

// fillRelCache connects once to the database of clones, when nothing changes any
// more: that writes the files. It finds out where they are.
func (b *build) fillRelCache(ctx context.Context) error {
	dirs, err := b.query(ctx, b.st.DB, `SELECT 'base/' || oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()
		AND dattablespace = 1663 AND pg_catalog.current_setting('shared_preload_libraries') = ''`)
	if err != nil {
		return fmt.Errorf("find relation cache: %w", err)
	}
	b.st.RelCache = nil
	if len(dirs) > 0 {
		b.st.RelCache = []string{"global", dirs[0]}
	}
	return nil
}

// saveRelCache gives the files their second names. Links that came with the data
// go first, and so do files that no clone gets back.
func (b *build) saveRelCache(data *os.Root) error {
	others, err := fs.Glob(foreign.FS(data), "base/*/"+relCache)
	if err != nil {
		return err
	}
	for _, name := range others {
		if slices.Contains(b.st.RelCache, path.Dir(name)) {
			continue
		}
		if err := data.Remove(name); err != nil {
			return err
		}
	}
	for _, dir := range b.st.RelCache {
		saved := path.Join(dir, savedRelCache)
		err := data.Remove(saved)
		if err == nil || errors.Is(err, os.ErrNotExist) {
			err = data.Link(path.Join(dir, relCache), saved)
		}
		if errors.Is(err, os.ErrNotExist) { // the server wrote none
			b.st.RelCache = nil
			return nil
		}
		if err != nil {
			return fmt.Errorf("keep relation cache: %w", err)
		}
		b.hot = append(b.hot, path.Join(b.st.DataDir, saved))
	}
	return nil
}

// errRelCache says that a clone may have a relation cache that is wrong.
var errRelCache = fmt.Errorf("put relation cache back: the server was faster: %w", errdefs.ErrUnavailable)

// preloads says whether a server was told to preload libraries. Just after its
// exec the kernel does not know its arguments.
func preloads(pid int) bool {
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err != nil || len(args) == 0 || bytes.Contains(args, []byte("\x00shared_preload_libraries="))
}

// relCaches are the directories of one clone whose relation cache will be removed.
type relCaches struct {
	pid     int
	root    *rootfs.Root
	dataDir string
	dirs    map[int32]*os.Root // by the number of their watch
}

// addCaches watches dirs. The result is to be closed, also after an error.
func (w *watch) addCaches(pid int, root *rootfs.Root, dataDir string, dirs []string) (relCaches, error) {
	c := relCaches{pid, root, dataDir, map[int32]*os.Root{}}
	for _, name := range dirs {
		name = path.Join(dataDir, name)
		wd, err := w.add(root, name, unix.IN_DELETE)
		if err != nil {
			return c, err
		}
		if c.dirs[wd], err = root.Dir(name); err != nil {
			delete(c.dirs, wd)
			return c, err
		}
	}
	return c, nil
}

func (c relCaches) close() {
	for _, d := range c.dirs {
		_ = d.Close()
	}
}

// restore puts the cache of a directory back, unless the server is about to serve.
// Without it clones are slower, so that only a wrong one is an error.
func (c relCaches) restore(number int32) error {
	dir, begun := c.dirs[number], time.Now()
	if dir == nil || preloads(c.pid) || c.ready() || dir.Rename(savedRelCache, relCache) != nil || !c.ready() {
		return nil
	}
	// Too late. No harm is done unless somebody had the time to change a
	// catalog before the file was there, and somebody else to read it after.
	if err := dir.Remove(relCache); err != nil && !errors.Is(err, os.ErrNotExist) || time.Since(begun) > autovacuumRest {
		return errRelCache
	}
	return nil
}

// ready says whether the server may serve already; it may where its pid file cannot be
// read, for it is there when the caches go.
func (c relCaches) ready() bool {
	text, _ := readPidFile(c.root, c.dataDir)
	return text == "" || text.ready()
}
