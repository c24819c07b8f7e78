package main_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

const (
	cloneCallers = 6 // clone, run, name, reset, remove
	buildCallers = 2 // build, promote, clone, remove, each a golden of its own
	callerClones = 3 // that a caller keeps
)

// load is callers that use a daemon at random, and know what it has told them.
// Each of them touches only what is its own, so what the daemon may have is known
// exactly: what it has confirmed, and what was under way when it died.
type load struct {
	t       testing.TB
	d       *daemon
	seed    uint64
	addrs   string       // of further interfaces, as in 10.101
	gate    sync.RWMutex // held shared by each operation
	callers []*caller
	stop    context.CancelFunc
	wg      sync.WaitGroup

	mu     sync.Mutex
	sure   map[string]api.Golden // versions that were confirmed and that nobody is removing, by ref
	seen   map[string]int        // caller by id of each clone that was made
	done   map[string]int        // operations that were confirmed, by kind
	took   map[string]time.Duration
	failed map[string]int // errors that the daemon has answered with
	lost   []string       // what was confirmed and is not there
	twice  []string       // clones that two have been given
	wrong  []string       // goldens that are damaged, or there after they were removed
}

// caller is one of them. Only its goroutine uses it, or whoever holds the gate.
type caller struct {
	*load
	number int
	rand   *rand.Rand
	clones map[string]*held // by id
	golden string           // that it builds; "" for none
	// versions are those that were confirmed. A version that is being removed is in
	// neither of them.
	versions map[int]api.Golden
	current  map[int]bool       // versions that may be the current one; -1 is any
	gone     map[time.Time]bool // when those were built whose removal was confirmed
}

// held is a clone that a caller was given.
type held struct {
	api.Clone
	token string // what the caller has written into it
}

func newLoad(t testing.TB, d *daemon, seed uint64) *load {
	l := &load{t: t, d: d, seed: seed, addrs: newRange(), sure: map[string]api.Golden{}, seen: map[string]int{}, done: map[string]int{}, failed: map[string]int{}, took: map[string]time.Duration{}}
	for i := range cloneCallers + buildCallers {
		c := &caller{
			load: l, number: i, rand: rand.New(rand.NewPCG(seed, uint64(i))), //nolint:gosec // to be repeated
			clones: map[string]*held{}, versions: map[int]api.Golden{}, current: map[int]bool{}, gone: map[time.Time]bool{},
		}
		if i >= cloneCallers {
			c.golden = fmt.Sprintf("own%d", i)
		}
		l.callers = append(l.callers, c)
	}
	return l
}

// start has the callers work until pause and end.
func (l *load) start(ctx context.Context) {
	ctx, l.stop = context.WithCancel(ctx)
	for _, c := range l.callers {
		l.wg.Go(func() {
			for ctx.Err() == nil {
				l.gate.RLock()
				c.work(ctx)
				l.gate.RUnlock()
			}
		})
	}
}

func (l *load) end() {
	l.stop()
	l.wg.Wait()
}

// work does one thing. While nobody answers it does not try again at once.
func (c *caller) work(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	begun := time.Now()
	kind, err := c.any(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.took[kind] += time.Since(begun)
	var answered *api.Error
	switch {
	case err == nil:
		c.done[kind]++
	case errors.As(err, &answered) && !answered.Retryable && !strings.HasPrefix(answered.Message, "daemon at"):
		c.failed[kind+": "+anonymous(answered.Message)]++
	case errors.Is(err, errTwice):
		c.twice = append(c.twice, err.Error())
	}
}

// anonymous takes ids out of a message.
func anonymous(s string) string {
	words := strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == '/' })
	for i, w := range words {
		if strings.ContainsAny(w, "0123456789") {
			words[i] = "…"
		}
	}
	return strings.Join(words, " ")
}

func (c *caller) any(ctx context.Context) (string, error) {
	n := c.rand.IntN(100)
	switch {
	case c.golden != "" && (n < 60 || len(c.versions) == 0):
		return c.workOnGolden(ctx)
	case len(c.clones) >= callerClones || n < 20 && len(c.clones) > 0:
		return "remove", c.remove(ctx, c.pick())
	case n < 35:
		return "run", c.run(ctx)
	case n < 45:
		return "reset", c.clone(ctx, api.CloneRequest{Name: c.name(), IfExists: api.IfExistsReset})
	case n < 55:
		return "reuse", c.clone(ctx, api.CloneRequest{Name: c.name(), IfExists: api.IfExistsReuse})
	case n < 62:
		return "settings", c.clone(ctx, api.CloneRequest{Settings: map[string]string{"work_mem": "8MB"}})
	case n < 66:
		return "network", c.clone(ctx, api.CloneRequest{Networks: []string{"lan"}})
	case n < 72:
		return "publish", c.publish(ctx)
	case n < 76:
		return "attach", c.attached(ctx)
	case n < 80 && len(c.clones) > 0:
		return "interface", c.interfaces(ctx)
	case n < 84:
		return "pair", c.clone(ctx, api.CloneRequest{Count: 2})
	default:
		return "clone", c.clone(ctx, api.CloneRequest{})
	}
}

func (c *caller) name() string { return fmt.Sprintf("caller%d", c.number) }

// source is the golden that a caller clones.
func (c *caller) source() string {
	if c.golden != "" && len(c.versions) > 0 {
		return c.golden
	}
	return "shop"
}

// pick chooses one of the clones.
func (c *caller) pick() *held {
	ids := slices.Sorted(maps.Keys(c.clones))
	return c.clones[ids[c.rand.IntN(len(ids))]]
}

var errTwice = errors.New("handed out twice")

// clone asks for clones, which must be nobody's, and writes into them whose they are.
func (c *caller) clone(ctx context.Context, req api.CloneRequest) error {
	req.Golden, req.TTL = c.source(), api.Duration(3*time.Hour)
	if req.Name != "" { // it may go from now on, and nobody hears of it
		for id, h := range c.clones {
			if h.Name == req.Name && req.IfExists == api.IfExistsReset {
				delete(c.clones, id)
			}
		}
	}
	resp, err := client.Do(ctx, c.d.client, api.CreateClones, api.CreateArgs{Body: req})
	if err != nil {
		return err
	}
	for _, got := range resp.Clones {
		if err := c.take(got); err != nil {
			return err
		}
	}
	return nil
}

// take makes a clone the caller's.
func (c *caller) take(got api.Clone) error {
	if h := c.clones[got.ID]; h != nil && !got.Created {
		return nil
	}
	c.mu.Lock()
	other, known := c.seen[got.ID]
	c.seen[got.ID] = c.number
	c.mu.Unlock()
	if known && other != c.number {
		return fmt.Errorf("%w: %s to %d and %d", errTwice, got.ID, other, c.number)
	}
	h := &held{Clone: got, token: fmt.Sprintf("%d-%d", c.number, c.rand.Uint64())}
	c.clones[got.ID] = h
	if !got.Created { // a name's, whose making was not confirmed
		_, err := tryQuery(got.URLs["socket"], "DROP TABLE IF EXISTS owner")
		if err != nil {
			return err
		}
	}
	_, err := tryQuery(got.URLs["socket"], "CREATE TABLE owner AS SELECT '"+h.token+"'::text AS token")
	if err != nil && strings.Contains(err.Error(), "already exists") {
		return fmt.Errorf("%w: %s is somebody's already", errTwice, got.ID)
	}
	return err
}

// run uses a clone of a lease and gives it back by ending that.
func (c *caller) run(ctx context.Context) error {
	resp, err := client.Do(ctx, c.d.client, api.CreateClones, api.CreateArgs{Body: api.CloneRequest{Golden: c.source(), Lease: api.LeaseConnection}})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	lease, err := c.d.client.HoldLease(ctx, resp.LeaseID)
	if err != nil {
		return err
	}
	defer lease.Close()
	_, err = tryQuery(resp.Clones[0].URLs["socket"], "SELECT 1")
	return err
}

// remove gives a clone back: from here on nobody may count on it.
func (c *caller) remove(ctx context.Context, h *held) error {
	delete(c.clones, h.ID)
	if err := client.Tell(ctx, c.d.client, api.RemoveClone, api.RemoveArgs{ID: h.ID}); err != nil {
		return err
	}
	if _, err := tryQuery(h.URLs["socket"], "SELECT 1"); err == nil {
		return fmt.Errorf("clone %s answers after it was removed", h.ID)
	}
	return nil
}

// workOnGolden builds, promotes or removes a version of the caller's golden.
func (c *caller) workOnGolden(ctx context.Context) (string, error) {
	n := c.rand.IntN(100)
	versions := slices.Sorted(maps.Keys(c.versions))
	switch {
	case len(versions) > 3 || len(versions) > 2 && n < 30:
		return "golden rm", c.removeVersion(ctx, versions[c.rand.IntN(len(versions))])
	case len(versions) > 1 && n < 55:
		return "promote", c.promote(ctx, versions[c.rand.IntN(len(versions))])
	case len(versions) > 0 && n < 60:
		return "access", c.access(ctx)
	default:
		return "build", c.build(ctx)
	}
}

func (c *caller) build(ctx context.Context) error {
	script := fmt.Sprintf("CREATE TABLE IF NOT EXISTS built AS SELECT %d AS n, repeat('x', 100) AS pad FROM generate_series(1, 500);", c.rand.IntN(1000))
	part := client.Part{Kind: api.PartInit, Name: "more.sql", Open: func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(script)), nil
	}}
	g, _, err := c.d.client.Build(ctx, api.BuildRequest{Name: c.golden, Parent: "shop"}, []client.Part{part}, nil)
	if err != nil {
		c.current[-1] = true // a version that nobody has heard of
		return err
	}
	c.versions[g.Version] = g
	c.believe(g)
	c.current = map[int]bool{g.Version: true}
	return nil
}

func (c *caller) promote(ctx context.Context, version int) error {
	c.current[version] = true // it may be, whatever the answer
	_, err := client.Do(ctx, c.d.client, api.PromoteGolden, api.GoldenArgs{Ref: fmt.Sprintf("%s:%d", c.golden, version)})
	if err == nil {
		c.current = map[int]bool{version: true}
	}
	return err
}

// removeVersion removes a version that no clone stands on.
func (c *caller) removeVersion(ctx context.Context, version int) error {
	for id, h := range c.clones {
		if h.Golden == c.golden {
			delete(c.clones, id)
			if err := client.Tell(ctx, c.d.client, api.RemoveClone, api.RemoveArgs{ID: id}); err != nil {
				return err
			}
		}
	}
	g := c.versions[version]
	delete(c.versions, version)
	c.doubt(g)
	c.current[-1] = true
	err := client.Tell(ctx, c.d.client, api.RemoveGolden, api.GoldenArgs{Ref: fmt.Sprintf("%s:%d", c.golden, version)})
	var answered *api.Error
	if errors.As(err, &answered) && answered.Code == api.CodeConflict { // it is in use: by a clone that nobody was told of
		c.versions[version] = g
		c.believe(g)
		return nil
	}
	if err == nil {
		c.gone[g.CreatedAt] = true
	}
	return err
}

// believe notes that a version is there whatever happens, doubt that it may be gone.
func (l *load) believe(g api.Golden) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sure[fmt.Sprintf("%s:%d", g.Name, g.Version)] = g
}

func (l *load) doubt(g api.Golden) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.sure, fmt.Sprintf("%s:%d", g.Name, g.Version))
}

// believed returns what is there now whatever happens.
func (l *load) believed() map[string]api.Golden {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.sure)
}
