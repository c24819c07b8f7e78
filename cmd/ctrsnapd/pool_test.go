package main_test

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

// pools returns what `pool ls` says, by golden and version.
func pools(t testing.TB, d *daemon) map[string]api.Pool {
	t.Helper()
	var doc struct{ Pools []api.Pool }
	if err := json.Unmarshal([]byte(d.run("pool", "ls", "-o", "json")), &doc); err != nil {
		t.Fatal(err)
	}
	byRef := map[string]api.Pool{}
	for _, p := range doc.Pools {
		byRef[p.Golden+":"+string(rune('0'+p.Version))] = p
	}
	return byRef
}

// TestPool claims 200 clones under 8 callers and kills the daemon meanwhile: each
// clone is handed out once, and nobody has written to it before.
func TestPool(t *testing.T) {
	t.Parallel()
	d := newShop(t, "[pool]\nauto = false\n")
	d.run("pool", "set", "shop", "--size", "6")
	ready := func(ref string, n int) func() bool { return func() bool { return pools(t, d)[ref].Ready == n } }
	waitFor(t, "the pool to be full", ready("shop:1", 6))
	if got := d.run("ls", "-q"); got != "" {
		t.Errorf("ls shows members of the pool: %s", got)
	}
	if c := cloneJSON(t, d, "shop", "--name", "first", "--label", "a=b"); c.Name != "first" || c.Labels["a"] != "b" || c.ExpiresAt == nil || c.Timings[api.StageClaim] == 0 {
		t.Errorf("not as asked for, or not from the pool: %+v", c)
	}
	if c := cloneJSON(t, d, "shop", "--set", "work_mem=5MB"); c.Timings[api.StageClaim] != 0 || query(t, c.URL, "SHOW work_mem") != "5MB" {
		t.Errorf("one with a setting is from the pool: %+v", c)
	}

	c := claimers{t: t, d: d, seen: map[string]bool{}}
	c.claim(200, func() { d.restart(syscall.SIGKILL) })
	p := pools(t, d)["shop:1"]
	t.Logf("since the restart %d claims hit the pool and %d did not", p.Hits, p.Misses)
	if p.Size == nil || *p.Size != 6 || p.Hits < 10 {
		t.Errorf("after the restart the pool is %+v", p)
	}
	waitFor(t, "the pool to be full again", ready("shop:1", 6))
	d.restart(syscall.SIGTERM)
	if p := pools(t, d)["shop:1"]; p.Ready != 6 {
		t.Errorf("members were not taken up by the next daemon: %+v", p)
	}

	d.run("rm", "--all")
	d.run("golden", "build", "shop", fromHost(), "--init", "schema.sql")
	waitFor(t, "the pool of the new version", ready("shop:2", 6))
	waitFor(t, "the pool of the old version to drain", ready("shop:1", 0))
	d.run("golden", "rollback", "shop")
	waitFor(t, "the pool of the version that was rolled back to", ready("shop:1", 6))
	waitFor(t, "the pool of the version that was left", ready("shop:2", 0))
	d.run("golden", "promote", "shop:2")
	waitFor(t, "the pool of the promoted version", ready("shop:2", 6))
	waitFor(t, "the pool of the version before", ready("shop:1", 0))
	d.claimDead()
	d.run("rm", "--all")
	d.run("golden", "rm", "shop:1")
	d.run("golden", "rm", "shop")
	if got := pools(t, d); len(got) != 0 {
		t.Errorf("pools without goldens: %v", got)
	}
}

// claimDead kills the servers of all members and clones at once: no member that
// is dead is handed out.
func (d *daemon) claimDead() {
	d.t.Helper()
	_, tasks, _ := strings.Cut(d.ctr("ls").stdout, "\n") // below TASK PID STATUS
	for line := range strings.Lines(tasks) {
		pid, err := strconv.Atoi(strings.Fields(line)[1])
		if err != nil || syscall.Kill(pid, syscall.SIGKILL) != nil {
			d.t.Errorf("kill %s: %v", line, err)
		}
	}
	resp, err := client.Do(d.t.Context(), d.client, api.CreateClones, api.CreateArgs{Body: api.CloneRequest{Golden: "shop", Count: 4}})
	if err != nil {
		d.t.Fatal(err)
	}
	for _, c := range resp.Clones {
		if _, err := tryQuery(c.URL, "SELECT count(*) FROM users"); err != nil {
			d.t.Errorf("a clone that does not answer was handed out: %v", err)
		}
	}
}

// claimers clone side by side.
type claimers struct {
	t *testing.T
	d *daemon

	mu   sync.Mutex
	seen map[string]bool
}

// claim makes n clones and calls halfway when half of them are made.
func (c *claimers) claim(n int64, halfway func()) {
	var begun, ended atomic.Int64
	half := make(chan struct{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for begun.Add(1) <= n {
				c.one()
				if ended.Add(1) == n/2 {
					close(half)
				}
			}
		})
	}
	<-half
	halfway()
	wg.Wait()
}

func (c *claimers) one() {
	c.retry("wait for the pool", func() error {
		list, err := client.Do(c.t.Context(), c.d.client, api.ListPools, api.None{})
		if err == nil && (len(list) == 0 || list[0].Ready == 0) {
			err = errors.New("it is empty")
		}
		return err
	})
	var got api.Clone
	c.retry("clone", func() error {
		resp, err := client.Do(c.t.Context(), c.d.client, api.CreateClones, api.CreateArgs{Body: api.CloneRequest{Golden: "shop"}})
		if err == nil {
			got = resp.Clones[0]
		}
		return err
	})
	if got.ID == "" {
		return
	}
	c.mu.Lock()
	if c.seen[got.ID] {
		c.t.Errorf("clone %s was handed out twice", got.ID)
	}
	c.seen[got.ID] = true
	c.mu.Unlock()
	if _, err := tryQuery(got.URL, "CREATE TABLE mine ()"); err != nil { // fails where it exists
		c.t.Errorf("clone %s: %v", got.ID, err)
	}
	c.retry("remove", func() error {
		return client.Tell(c.t.Context(), c.d.client, api.RemoveClone, api.RemoveArgs{ID: got.ID})
	})
}

// retry lets the daemon be away for a while.
func (c *claimers) retry(what string, do func() error) {
	var err error
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); <-time.After(20 * time.Millisecond) {
		var e *api.Error
		if err = do(); err == nil || what == "remove" && errors.As(err, &e) && e.Code == api.CodeNotFound {
			return
		}
	}
	c.t.Errorf("%s: %v", what, err)
}
