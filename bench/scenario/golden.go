package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ctrsnap/ctrsnap/bench/peer"
	"github.com/ctrsnap/ctrsnap/bench/recorder"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

// customers is how many rows the table has that every clone is checked by.
const customers = 10_000

// data describes a golden's content.
type data struct {
	rows      int // of 8 KiB, one to a page
	quickRows int
	accounts  int // in units of pgbench's scale
	pg18      bool
}

// contents are the goldens that scenarios use; they are built when the first
// needs them. Sizes: shop 1.5 GB, small under 50 MiB, big over 5 GiB.
var contents = map[string]data{
	"shop":    {rows: 183_200, quickRows: 2_000},
	"small":   {rows: 16},
	"big":     {rows: 656_000, quickRows: 8_000},
	"shop18":  {rows: 183_200, quickRows: 2_000, pg18: true},
	"pgbench": {accounts: 10},
	"app":     {rows: 24_000, quickRows: 500}, // what all peers can copy in a run
	"app18":   {rows: 24_000, quickRows: 500, pg18: true},
}

func (d data) pages(quick bool) int {
	if quick && d.quickRows > 0 {
		return d.quickRows
	}
	return d.rows
}

// sql makes the content. Tables that are filled in the transaction that makes
// them need no log.
func (d data) sql(quick bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, `BEGIN;
CREATE TABLE customers (id int PRIMARY KEY, email text NOT NULL);
INSERT INTO customers SELECT i, 'customer' || i || '@example.com' FROM generate_series(1, %d) i;
CREATE TABLE orders (id int NOT NULL, note text NOT NULL);
ALTER TABLE orders ALTER note SET STORAGE PLAIN;
INSERT INTO orders SELECT i, repeat(md5(i::text), 245) FROM generate_series(1, %d) i;
COMMIT;
`, customers, d.pages(quick))
	if d.accounts > 0 {
		scale := d.accounts
		if quick {
			scale = 1
		}
		fmt.Fprintf(&b, pgbenchSQL, scale)
	}
	return b.String()
}

// pgbenchSQL makes the tables of pgbench(1) at the scale that is given.
const pgbenchSQL = `\set scale %d
BEGIN;
CREATE TABLE pgbench_branches (bid int PRIMARY KEY, bbalance int, filler char(88)) WITH (fillfactor = 100);
CREATE TABLE pgbench_tellers (tid int PRIMARY KEY, bid int, tbalance int, filler char(84)) WITH (fillfactor = 100);
CREATE TABLE pgbench_accounts (aid int, bid int, abalance int, filler char(84)) WITH (fillfactor = 100);
CREATE TABLE pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));
INSERT INTO pgbench_branches SELECT i, 0 FROM generate_series(1, :scale) i;
INSERT INTO pgbench_tellers SELECT i, (i - 1) / 10 + 1, 0 FROM generate_series(1, 10 * :scale) i;
INSERT INTO pgbench_accounts SELECT i, (i - 1) / 100000 + 1, 0, '' FROM generate_series(1, 100000 * :scale) i;
ALTER TABLE pgbench_accounts ADD PRIMARY KEY (aid);
COMMIT;
`

// rowCount is asked of every clone.
const rowCount = "SELECT count(*) FROM customers"

func checkRows(ctx context.Context, at peer.Endpoint) error {
	if at.Other != nil {
		return at.Other(ctx)
	}
	return at.Want(ctx, rowCount, fmt.Sprint(customers))
}

// golden returns a golden, which it builds and checks unless it is there.
func (e *Env) golden(ctx context.Context, name string) (api.Golden, error) {
	e.mu.Lock()
	g, ok := e.built[name]
	e.mu.Unlock()
	if ok {
		return g, nil
	}
	begun := time.Now()
	g, err := e.build(ctx, name)
	if err != nil {
		return g, fmt.Errorf("golden %s: %w", name, err)
	}
	e.say("golden %s: %d MiB, %s, built in %.1f s", name, g.SizeBytes>>20, version(g), time.Since(begun).Seconds())
	e.mu.Lock()
	defer e.mu.Unlock()
	e.built[name] = g
	e.order = append(e.order, name)
	e.versions[g.Engine+" for "+name] = g.EngineVersion
	return g, nil
}

func (e *Env) build(ctx context.Context, name string) (api.Golden, error) {
	if e.Engine != "" {
		return e.buildOther(ctx, name)
	}
	d := contents[name]
	script := filepath.Join(e.Rig.Work(), name+".sql")
	if err := os.WriteFile(script, []byte(d.sql(e.Quick)), 0o600); err != nil {
		return api.Golden{}, err
	}
	base := "--from-host"
	if prefix := e.prefix(name); prefix != "" {
		base += "=" + prefix
	}
	if _, err := e.Rig.CLI(ctx, "golden", "build", e.ref(name), base, "--init", script, "--quiet"); err != nil {
		return api.Golden{}, err
	}
	g, err := client.Do(ctx, e.Rig.Client(), api.GetGolden, api.GoldenArgs{Ref: e.ref(name)})
	if err != nil {
		return g, err
	}
	return g, e.checkAll(ctx, name, d.pages(e.Quick))
}

// prefix is where the server of the golden is from.
func (e *Env) prefix(golden string) string {
	if contents[golden].pg18 {
		return e.PG18
	}
	return e.Postgres
}

// checkAll counts all rows, once: reading gigabytes in every clone would be
// all that a run does.
func (e *Env) checkAll(ctx context.Context, name string, pages int) error {
	c, _, _, err := e.clone(ctx, name)
	if err != nil {
		return err
	}
	err = endpoint(c).Want(ctx, "SELECT count(*) FROM orders", fmt.Sprint(pages))
	return errors.Join(err, checkRows(ctx, endpoint(c)), e.remove(ctx, c.ID))
}

// goldens compares every golden with the digest of what was built: nothing that
// a run does may change one.
func goldens(ctx context.Context, t *take) error {
	r := recorder.New("verify", "", "ms")
	for _, name := range t.goldenNames() {
		begun := time.Now()
		if _, err := client.Do(ctx, t.Rig.Client(), api.VerifyGolden, api.GoldenArgs{Ref: t.ref(name)}); err != nil {
			if err := t.fail(ctx, r, fmt.Errorf("golden %s has changed: %w", name, err)); err != nil {
				return err
			}
			continue
		}
		r.AddDuration(time.Since(begun))
	}
	t.keep(r)
	return nil
}
