package main_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var (
	soakSpan = flag.Duration("soak.span", 3*time.Second, "how long TestSoak works")
	soakSeed = flag.Uint64("soak.seed", 1, "of what TestSoak does at random")
	soakOut  = flag.String("soak.out", "", "file that takes TestSoak's figures")
)

// What a daemon may have more of after the last third of a soak than before: connections that
// its callers keep, and shims that come and go.
const (
	moreFDs        = 16
	moreGoroutines = 32
	moreResident   = 64 << 20 // beside twice what it had: what was freed is not given back at once
)

// footprint is what a daemon without clones has.
type footprint struct {
	FDs        int `json:"fds"`
	Goroutines int `json:"goroutines"`
	Resident   int `json:"resident_bytes"`
}

// soakReport is the figures of TestSoak.
type soakReport struct {
	Target    string         `json:"target"`
	Seed      uint64         `json:"seed"`
	Seconds   int            `json:"seconds"`
	Kills     int            `json:"kills"`
	Fills     int            `json:"fills"`
	Confirmed map[string]int `json:"confirmed"`
	Lost      int            `json:"lost"`
	Wrong     int            `json:"goldens_wrong"`
	Twice     int            `json:"handed_out_twice"`
	Leaked    map[string]int `json:"leaked"`
	Before    footprint      `json:"before"`
	After     footprint      `json:"after"`
}

// TestSoak has callers clone, claim, reset, remove, build and promote: a third of the time under
// kills of the daemon and with a storage that is full now and then, and two thirds by one daemon, which has no more in the end than after
// the first of them. Nothing is lost, and nothing left.
func TestSoak(t *testing.T) {
	t.Parallel()
	begun := time.Now()
	k := newKiller(t, *soakSeed)
	ctx := t.Context()
	before := k.settle(ctx)
	r := soakReport{Target: "soak", Seed: *soakSeed, Leaked: map[string]int{}}
	k.start(ctx)
	for third := time.Now(); time.Since(third) < *soakSpan/3 && !t.Failed(); {
		<-time.After(time.Duration(k.rand.IntN(4000)) * time.Millisecond)
		k.killAtRandom(ctx)
		if k.kills%3 == 1 {
			k.fill(ctx)
			r.Fills++
		}
	}
	k.audit(ctx, before, r.Leaked)
	<-time.After(*soakSpan / 3)
	r.Before = k.rest(ctx, before, r.Leaked, nil)
	<-time.After(*soakSpan / 3)
	r.After = k.rest(ctx, before, r.Leaked, &r.Before)
	k.end() // what is under way then is not waited for
	r.Seconds, r.Kills, r.Confirmed, r.Lost, r.Wrong, r.Twice = int(time.Since(begun).Seconds()), k.kills, k.done, len(k.lost), len(k.wrong), len(k.twice)
	line, err := json.Marshal(r)
	do(t, err)
	t.Logf("%s", line)
	if r.After.Resident > 2*r.Before.Resident+moreResident {
		t.Errorf("the daemon has grown from %d to %d MiB", r.Before.Resident>>20, r.After.Resident>>20)
	}
	if *soakOut != "" {
		do(t, os.WriteFile(*soakOut, append(line, '\n'), 0o600))
	}
}

// killAtRandom kills the daemon, starts another one and compares.
func (k *killer) killAtRandom(ctx context.Context) {
	k.t.Helper()
	k.d.stop(syscall.SIGKILL)
	k.kills++
	k.gate.Lock() // the callers' operations end with their daemon
	defer k.gate.Unlock()
	k.d.start()
	if err := k.verify(ctx); err != nil {
		k.t.Error(err)
	}
	k.complain("at random")
}

// fill leaves so little of the storage for a while that nobody gets a clone or a golden, and enough
// for those that there are.
func (k *killer) fill(ctx context.Context) {
	k.t.Helper()
	k.gate.Lock() // what is being built could take the rest
	storage := filepath.Join(k.d.work, "root", "storage")
	f, err := os.Create(filepath.Join(storage, "ballast"))
	do(k.t, err)
	defer f.Close()
	var st unix.Statfs_t
	do(k.t, unix.Statfs(storage, &st))
	reserve := int64(st.Blocks) * st.Bsize / 20
	do(k.t, unix.Fallocate(int(f.Fd()), 0, 0, int64(st.Bavail)*st.Bsize-reserve*3/4))
	waitFor(k.t, "clones to be refused", func() bool {
		r := k.d.try(nil, "clone", "shop", "--name", "refused")
		if r.code == 0 {
			k.d.run("rm", "refused")
		}
		return r.code == 5
	})
	k.gate.Unlock()
	<-time.After(2 * time.Second) // of callers who are refused
	k.gate.Lock()
	defer k.gate.Unlock()
	do(k.t, os.Remove(f.Name()))
	f.Close()
	waitFor(k.t, "clones to be made again", func() bool {
		r := k.d.try(nil, "clone", "shop", "--name", "refused")
		return r.code == 0
	})
	k.d.run("rm", "refused")
	if err := k.verify(ctx); err != nil {
		k.t.Error(err)
	}
	k.complain("on a full storage")
}

// rest gives all clones back, looks for what is left, and returns what the daemon has when that is no
// more than a footprint of before, if there is one.
func (k *killer) rest(ctx context.Context, before census, leaked map[string]int, most *footprint) (f footprint) {
	k.t.Helper()
	k.gate.Lock()
	defer k.gate.Unlock()
	if err := errors.Join(k.verify(ctx), k.clear(ctx), k.verifyDigests(ctx)); err != nil {
		k.t.Error(err)
	}
	k.d.run("pool", "set", "shop", "--size", "0")
	for kind, n := range k.d.leaks(ctx, before) {
		leaked[kind] += n
	}
	waitFor(k.t, "descriptors and goroutines of the daemon to be given back", func() bool {
		f = k.d.footprint(k.t)
		return most == nil || f.FDs <= most.FDs+moreFDs && f.Goroutines <= most.Goroutines+moreGoroutines
	})
	k.d.run("pool", "set", "shop", "--size", "2")
	return f
}

// footprint asks the daemon's metrics.
func (d *daemon) footprint(t testing.TB) (f footprint) {
	t.Helper()
	resp, err := socketClient(d).Get("http://ctrsnap/metrics")
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("metrics: %v", err)
	}
	defer resp.Body.Close()
	into := map[string]*int{"process_open_fds": &f.FDs, "go_goroutines": &f.Goroutines, "process_resident_memory_bytes": &f.Resident}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if n := into[name]; n != nil {
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatal(err)
			}
			*n = int(v)
		}
	}
	if f.FDs == 0 || f.Goroutines == 0 || f.Resident == 0 {
		t.Fatalf("metrics lack something: %+v", f)
	}
	return f
}
