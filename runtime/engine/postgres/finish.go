package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/ctrsnap/ctrsnap/runtime/engine/rootfs"
	"github.com/ctrsnap/ctrsnap/runtime/engine/source"
	"github.com/ctrsnap/ctrsnap/snapshot/foreign"
)

// mask runs the masking scripts. The rows that they replace are still in the
// files, as dead tuples and in statistics: all is written anew.
func (b *build) mask(ctx context.Context) error {
	if len(b.src.Mask) == 0 {
		return nil
	}
	if err := b.scripts(ctx, "mask", b.src.Mask); err != nil {
		return err
	}
	b.wb.Step("rewrite tables")
	names, err := b.databases(ctx)
	if err != nil {
		return err
	}
	for _, sql := range []string{
		"VACUUM (FULL, FREEZE, ANALYZE)",
		// The new statistics have left the old ones behind as dead tuples.
		"VACUUM (FULL, FREEZE) pg_catalog.pg_statistic",
	} {
		for _, name := range names {
			if _, err := b.query(ctx, name, sql); err != nil {
				return fmt.Errorf("rewrite tables of %s: %w", name, err)
			}
		}
	}
	return nil
}

// finish makes a golden of the database: vacuumed, checkpointed, shut down.
func (b *build) finish(ctx context.Context) error {
	if err := b.login(ctx); err != nil {
		return err
	}
	if err := b.settle(ctx); err != nil {
		return err
	}
	b.wb.Step("vacuum")
	names, err := b.databases(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := b.vacuum(ctx, name); err != nil {
			return fmt.Errorf("vacuum %s: %w", name, err)
		}
	}
	if err := b.findHot(ctx); err != nil {
		return err
	}
	if err := b.fillRelCache(ctx); err != nil {
		return err
	}
	b.wb.Step("shut down")
	// The shutdown's own record is then the first in a new segment, and all
	// others can go.
	for _, sql := range []string{"SELECT pg_catalog.pg_switch_wal()", "CHECKPOINT"} {
		if _, err := b.query(ctx, "template1", sql); err != nil {
			return fmt.Errorf("checkpoint: %w", err)
		}
	}
	if err := b.stop(ctx); err != nil {
		return err
	}
	return rootfs.Edit(ctx, b.wb.Root, b.clean)
}

// stop shuts the server down, with a last checkpoint.
func (b *build) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	err := b.svc.Stop(ctx, syscall.SIGINT) // as state.server says
	b.svc = nil
	if err != nil {
		return fmt.Errorf("shut down server: %w", err)
	}
	return nil
}

const vacuumTable = "VACUUM (FREEZE, ANALYZE) "

// ownFault says that an error is the server's own: no memory or disk, a shutdown, a file that cannot be read, data that are damaged.
func ownFault(state string) bool { return slices.Contains([]string{"53", "57", "58", "XX"}, state[:2]) }

// tablesSQL lists tables by size, so that the biggest is not the last one.
// Of a partitioned table only the statistics are its own.
const tablesSQL = `SELECT CASE relkind WHEN 'p' THEN 'ANALYZE ' ELSE '` + vacuumTable + `' END ||
	c.oid::pg_catalog.regclass || '#' || CASE relkind WHEN 'p' THEN 0 ELSE pg_catalog.pg_relation_size(c.oid) END
FROM pg_catalog.pg_class c WHERE relkind IN ('r', 'm', 'p') AND relpersistence <> 't'
ORDER BY pg_catalog.pg_relation_size(c.oid) DESC, c.oid`

// vacuum freezes and analyzes all tables of a database, several at a time.
func (b *build) vacuum(ctx context.Context, database string) error {
	conn, err := b.admin(ctx, database, "")
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is under way
	// Names come with their schema.
	tables, err := column(conn.Exec(ctx, "SET search_path = ''; "+tablesSQL).ReadAll())
	if err != nil {
		return err
	}
	queue := make(chan string, len(tables))
	var done atomic.Int64
	var total int64
	for _, t := range tables {
		_, size := splitTable(t)
		total += size
		queue <- t
	}
	close(queue)
	failed := make(chan string, len(tables))
	err = b.watch(&done, total, func() error {
		workers, ctx := errgroup.WithContext(ctx)
		for range jobs() {
			workers.Go(func() error { return b.vacuumTables(ctx, database, queue, failed, &done) })
		}
		return workers.Wait()
	})
	close(failed)
	for text := range failed {
		b.wb.Warn(text)
	}
	return err
}

func splitTable(t string) (sql string, size int64) {
	i := strings.LastIndexByte(t, '#')
	size, _ = strconv.ParseInt(t[i+1:], 10, 64) // the server's own number
	return t[:i], size
}

func (b *build) vacuumTables(ctx context.Context, database string, queue <-chan string, failed chan<- string, done *atomic.Int64) error {
	conn, err := b.admin(ctx, database, "")
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is under way
	for t := range queue {
		sql, size := splitTable(t)
		_, err := conn.Exec(ctx, sql).ReadAll()
		if s := sqlState(err); s != "" && !ownFault(s) { // a function of an index fails, which nobody may have noticed before
			failed <- "no statistics: " + excerpt(sql) + ": " + serverSays(err)
			err = nil
			if table, ok := strings.CutPrefix(sql, vacuumTable); ok {
				_, err = conn.Exec(ctx, "VACUUM (FREEZE) "+table).ReadAll()
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
		done.Add(size)
	}
	return nil
}

// clean checks that the server was shut down and removes what it and the
// build left behind.
func (b *build) clean(r *rootfs.Root) error {
	data, err := r.Dir(b.st.DataDir)
	if err != nil {
		return err
	}
	defer func() { _ = data.Close() }()
	c, err := readControl(data)
	if err != nil {
		return fmt.Errorf("check shutdown: %w: %w", err, errdefs.ErrDataLoss)
	}
	if c.state != dbShutdowned {
		return fmt.Errorf("check shutdown: pg_control says %q: %w", c, errdefs.ErrDataLoss)
	}
	if err := removeLeftovers(data); err != nil {
		return fmt.Errorf("remove what the server left: %w", err)
	}
	if err := removeWAL(data, c.checkpoint); err != nil {
		return fmt.Errorf("remove old WAL: %w", err)
	}
	if err := b.saveRelCache(data); err != nil {
		return err
	}
	if err := b.writeConf(r); err != nil {
		return err
	}
	if err := source.UnlinkInit(r); err != nil {
		return err
	}
	return removeBuildFiles(r)
}

func removeBuildFiles(r *rootfs.Root) error {
	dir, err := r.Dir(path.Dir(liveDir))
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	return dir.RemoveAll(path.Base(liveDir))
}

func removeLeftovers(data *os.Root) error {
	for _, name := range []string{"postmaster.pid", "postmaster.opts", "current_logfiles", "base/pgsql_tmp"} {
		if err := data.RemoveAll(name); err != nil {
			return err
		}
	}
	for _, dir := range []string{"log", "pg_log", "pg_stat_tmp"} {
		entries, err := fs.ReadDir(foreign.FS(data), dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := data.RemoveAll(dir + "/" + e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

// segmentRE is a segment's name: timeline, and its number in two parts.
var segmentRE = regexp.MustCompile(`^[0-9A-F]{8}([0-9A-F]{8})([0-9A-F]{8})$`)

// walPage is XLOG_BLCKSZ. The record of a shutdown is much smaller.
const walPage = 8192

// removeWAL removes all segments but that of the last checkpoint, at which a
// server that was shut down starts. Segments kept for later use hold old data.
func removeWAL(data *os.Root, checkpoint uint64) error {
	entries, err := fs.ReadDir(foreign.FS(data), "pg_wal")
	if err != nil {
		return err
	}
	for _, e := range entries {
		m := segmentRE.FindStringSubmatch(e.Name())
		info, err := e.Info()
		if err != nil {
			return err
		}
		if m == nil || info.Size() == 0 {
			continue
		}
		if needed(m[1], m[2], uint64(info.Size()), checkpoint) {
			continue
		}
		if err := data.Remove("pg_wal/" + e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// needed says whether a segment holds the checkpoint's record, or its end.
func needed(high, low string, size, checkpoint uint64) bool {
	h, _ := strconv.ParseUint(high, 16, 32) // as segmentRE says
	l, _ := strconv.ParseUint(low, 16, 32)
	start := h<<32 + l*size
	return checkpoint+walPage > start && checkpoint < start+size
}
