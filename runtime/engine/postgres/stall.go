package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

const (
	// stallEvery is how often a restore is looked at, stallLimit how long nothing may happen.
	stallEvery = 15 * time.Second
	stallLimit = 10 * time.Minute
)

var errStalled = fmt.Errorf("nothing has happened for %v: the program that restores it hangs", stallLimit)

// stalled ends with errStalled when look has returned the same for stallLimit, and with nil when ctx ends. look returns "" while
// something is under way, however long that takes.
func stalled(ctx context.Context, look func(context.Context) string) error {
	tick := time.NewTicker(stallEvery)
	defer tick.Stop()
	var last string
	since := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if now := look(ctx); now == "" || now != last {
			last, since = now, time.Now()
		} else if time.Since(since) >= stallLimit {
			return errStalled
		}
	}
}

// lookSQL says "" while a client's statement is at work, and else what changes when one has been.
const lookSQL = `SELECT CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend' AND state = 'active'
	AND pid <> pg_catalog.pg_backend_pid() AND wait_event IS DISTINCT FROM 'ClientRead') THEN ''
ELSE pg_catalog.concat_ws(' ', pg_catalog.pg_current_wal_insert_lsn(),
	(SELECT pg_catalog.string_agg(pid || ' ' || query_start, ' ' ORDER BY pid) FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_catalog.pg_backend_pid()),
	(SELECT pg_catalog.sum(pg_catalog.pg_database_size(oid)) FROM pg_catalog.pg_database)) END`

// unlessStalled runs what restores a dump, and ends it when it hangs.
func (b *build) unlessStalled(ctx context.Context, name string, restore func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := stalled(ctx, func(ctx context.Context) string {
			rows, err := b.query(ctx, "template1", lookSQL)
			if err != nil {
				return "" // what is wrong with the server is found out elsewhere
			}
			return strings.Join(rows, "\n")
		})
		if err != nil {
			cancel(err)
		}
	}()
	err := restore(ctx)
	cause := context.Cause(ctx)
	cancel(nil)
	<-done
	if errors.Is(cause, errStalled) {
		return dumpError(name, "%v", errStalled)
	}
	return err
}
