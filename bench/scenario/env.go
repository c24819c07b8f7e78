package scenario

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/bench/peer"
	"github.com/ctrsnap/ctrsnap/bench/rig"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

// drainTimeout is how long taking away hundreds of clones may take.
const drainTimeout = 5 * time.Minute

// Env is what scenarios run in.
type Env struct {
	Rig   *rig.Rig
	Quick bool
	// Daemon is the configuration under test, Baseline that of the stock
	// runtime without a pool; nil means that there is no other.
	Daemon, Baseline rig.Config
	PG18             string    // prefix of PostgreSQL 18, or ""
	Engine           string    // of all goldens; "" is PostgreSQL
	Golden           string    // of the user's own that is measured in a daemon that runs; "" is those that the run builds
	Prefix, Init     string    // of Engine: where its programs are, and what fills its goldens; "" is this host, and nothing
	Postgres         string    // prefix of the server of all other goldens, or "" for the system's
	Clones           int       // of the density scenario
	Claims, Restarts int       // of the claims scenario
	Deadline         time.Time // no scenario begins after it, and claims end there
	Progress         io.Writer // one line per step
	// Span is how long the counted rounds of one comparison may take: a slow
	// machine gets fewer rounds, and all scenarios their turn.
	Span time.Duration

	scratch  string // a directory on the goldens' filesystem, see openScratch
	reflink  bool
	versions map[string]string
	mu       sync.Mutex
	built    map[string]api.Golden
	order    []string        // of building
	pool     api.PoolRequest // what that of Golden was
	others   map[string]bool // directories of clones that were there before the run
	copies   int
}

// Start starts the daemon and learns what it runs.
func (e *Env) Start(ctx context.Context) error {
	if err := e.Rig.Start(ctx, e.Daemon); err != nil {
		return err
	}
	v, err := client.Do(ctx, e.Rig.Client(), api.GetVersion, api.None{})
	if err != nil {
		return err
	}
	e.versions = map[string]string{"ctrsnap": v.Version, "containerd": v.Containerd}
	d, err := client.Do(ctx, e.Rig.Client(), api.GetDoctor, api.None{})
	if err != nil {
		return err
	}
	for _, c := range d.Checks {
		if c.Status != "ok" {
			e.say("doctor: %s: %s: %s", c.Name, c.Status, c.Detail)
		}
	}
	e.built = map[string]api.Golden{}
	e.Span = max(e.Span, time.Second)
	e.reflink = canReflink(e.Rig.Storage())
	if err := e.openScratch(); err != nil || e.Rig.Own() {
		return err
	}
	if err := e.meet(); err != nil || e.Golden == "" {
		return err
	}
	return e.adopt(ctx)
}

// ref is the name that a golden has in the daemon: one of the run's own beside
// those of a daemon that others use.
func (e *Env) ref(golden string) string {
	if e.Rig.Own() || golden == e.Golden {
		return golden
	}
	return "ctrsnap-bench-" + golden
}

// Close removes what the run has left in a daemon that goes on.
func (e *Env) Close(ctx context.Context) error {
	err := e.closeScratch()
	if e.Rig.Own() {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	err = errors.Join(err, e.giveBack(ctx))
	for _, name := range slices.Backward(e.order) { // children before parents
		err = errors.Join(err, e.setPoolIfAny(ctx, name, 0), client.Tell(ctx, e.Rig.Client(), api.RemoveGolden, api.GoldenArgs{Ref: e.ref(name)}))
	}
	return err
}

// canReflink tries it.
func canReflink(dir string) bool {
	from, to := filepath.Join(dir, "reflink-a"), filepath.Join(dir, "reflink-b")
	defer func() { _ = errors.Join(os.Remove(to), os.Remove(from)) }() // they need not be there
	return os.WriteFile(from, make([]byte, 4096), 0o600) == nil && peer.Reflink(from, to) == nil
}

func (e *Env) say(format string, args ...any) { fmt.Fprintf(e.Progress, format+"\n", args...) }

// openScratch makes a directory on the goldens' filesystem that users reach as whom servers run: the storage lets nobody but
// root in.
func (e *Env) openScratch() (err error) {
	if err := os.MkdirAll(e.below(), 0o711); err != nil {
		return err
	}
	if e.scratch, err = os.MkdirTemp("/var/tmp", "ctrsnap-bench-data-"); err != nil {
		return err
	}
	return errors.Join(os.Chmod(e.scratch, 0o711), unix.Mount(e.below(), e.scratch, "", unix.MS_BIND, ""))
}

func (e *Env) below() string { return filepath.Join(e.Rig.Storage(), "bench") }

func (e *Env) closeScratch() error {
	if e.scratch == "" {
		return nil
	}
	return errors.Join(os.RemoveAll(e.below()), unix.Unmount(e.scratch, unix.MNT_DETACH), os.Remove(e.scratch))
}

// clone asks for one clone and returns when it has answered the caller's own
// SELECT 1.
func (e *Env) clone(ctx context.Context, golden string) (c api.Clone, took, connect time.Duration, err error) {
	return e.cloneAs(ctx, api.CloneRequest{Golden: golden})
}

// cloneAs is clone with a request that says more than the golden.
func (e *Env) cloneAs(ctx context.Context, req api.CloneRequest) (c api.Clone, took, connect time.Duration, err error) {
	golden := req.Golden
	req.Golden = e.ref(golden)
	begun := time.Now()
	resp, err := client.Do(ctx, e.Rig.Client(), api.CreateClones, api.CreateArgs{Body: req})
	if err != nil {
		return c, 0, 0, fmt.Errorf("clone %s: %w", golden, err)
	}
	c, made := resp.Clones[0], time.Now()
	if err := endpoint(c).Answer(ctx); err != nil {
		return c, 0, 0, errors.Join(fmt.Errorf("clone %s of %s: %w", c.ID, golden, err), e.remove(ctx, c.ID))
	}
	return c, time.Since(begun), time.Since(made), nil
}

func endpoint(c api.Clone) peer.Endpoint {
	at := peer.Endpoint{Socket: c.Socket, User: c.User, Password: c.Password, Database: c.Database}
	if c.Engine != "postgres" {
		at.Other = func(ctx context.Context) error { return peer.Ask(ctx, c) }
	}
	return at
}

// remove ends a clone and waits until nothing of it is left, so that what is
// measured next is alone.
func (e *Env) remove(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := client.Tell(ctx, e.Rig.Client(), api.RemoveClone, api.RemoveArgs{ID: id}); err != nil {
		return fmt.Errorf("remove clone %s: %w", id, err)
	}
	return e.gone(ctx, id)
}

// drained waits until nothing is left of any clone that was removed. The
// directory of a clone is the last that goes. keep are those of clones that live.
func (e *Env) drained(ctx context.Context, keep int) error {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	return e.await(ctx, "clones to be gone, and nobody else's made meanwhile", func() bool {
		entries, err := e.clonesThere()
		left := slices.DeleteFunc(entries, func(d os.DirEntry) bool { return e.others[d.Name()] })
		return err == nil && len(left) <= keep
	})
}

// await looks until ok: what a daemon does behind its API tells nobody.
func (e *Env) await(ctx context.Context, what string, ok func() bool) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		}
	}
	return nil
}

// study learns from a clone of the golden what a server beside it needs.
func (e *Env) study(ctx context.Context, golden string) (o peer.Original, login peer.Endpoint, err error) {
	c, _, _, err := e.clone(ctx, golden)
	if err != nil {
		return o, login, err
	}
	o, err = e.original(c)
	return o, endpoint(c), errors.Join(err, e.remove(ctx, c.ID))
}

// original learns how the server of a clone was started, with the program on
// this host that the golden has its own from.
func (e *Env) original(c api.Clone) (peer.Original, error) {
	o, err := peer.Study(c.PID)
	if err != nil {
		return o, err
	}
	return o, o.Locate(e.prefix(c.Golden))
}

// bare prepares a server without ctrsnap on a reflinked copy.
func (e *Env) bare(o peer.Original, login peer.Endpoint, settings ...string) (*peer.Bare, error) {
	e.mu.Lock()
	e.copies++
	n := fmt.Sprintf("bare%d", e.copies)
	e.mu.Unlock()
	return o.Prepare(filepath.Join(e.scratch, n), filepath.Join(e.Rig.State(), n), login, settings...)
}

// restart ends the daemon and starts it with another configuration. Goldens
// stay. One that is not the run's own goes on as it is.
func (e *Env) restart(ctx context.Context, c rig.Config) error {
	if !e.Rig.Own() {
		return nil
	}
	if err := e.Rig.Stop(terminate); err != nil {
		return err
	}
	return e.Rig.Start(ctx, c)
}

// goldenNames lists what has been built.
func (e *Env) goldenNames() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Sorted(maps.Keys(e.built))
}

func version(g api.Golden) string { return strings.TrimSpace(g.Engine + " " + g.EngineVersion) }
