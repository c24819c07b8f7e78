// Package enginetest is the conformance suite of engines: what a golden and its
// clones are held to whatever the server is. It sees a daemon as a user does, by the
// command line.
package enginetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// Subject is an engine under test.
type Subject struct {
	Engine  string
	Base    []string // flags of the base
	Sources []Source // the first is built on by all tests
	Wrong   []Wrong
	// Recovered is what a server logs that did not find its data shut down.
	Recovered *regexp.Regexp
	// Open connects to a clone, at once: nothing may be tried again. The caller
	// closes the store.
	Open func(ctx context.Context, c api.Clone) (Store, error)
	// OwnPassword says that a clone can have a password of its own.
	OwnPassword bool
	// Connections is the lowest number that its server can be held to, 0 if it can be to none, and
	// Reserved how many more are let in for administrators.
	Connections, Reserved int
	// Intact looks at a clone that was written to for damage; nil is nothing.
	Intact func(t *testing.T, d Daemon, c api.Clone)
	// Client are arguments of the interactive client by which it prints the first seeded value.
	Client []string
}

// Source is a way to build a golden in which each key of [Seed] has its value.
type Source struct {
	Name string
	// Flags returns those of golden build. d has a clone of the first source's golden, "first".
	Flags func(t *testing.T, d Daemon) []string
	// Check looks at a clone for what has to come along beside the rows; nil is nothing.
	Check func(t *testing.T, d Daemon, c api.Clone)
}

// Wrong is a source that is refused.
type Wrong struct {
	Name  string
	Flags func(t *testing.T, d Daemon) []string
	Says  string // in the error
}

// Store is a connection to a clone.
type Store interface {
	Put(ctx context.Context, key, value string) error
	Get(ctx context.Context, key string) (string, error) // "" if it is not there
	Close() error
}

// SeedKeys is how many keys a seeded golden has.
const SeedKeys = 20

// Seed returns a key that sources put into goldens, and its value.
func Seed(i int) (key, value string) { return fmt.Sprintf("seed%d", i), fmt.Sprintf("value-%d", i) }

// Run runs the suite. Honest is how many clones are asked the moment that they are
// handed out.
func Run(t *testing.T, d Daemon, s Subject, honest int) {
	golden := "suite-" + s.Engine
	r := runner{d, s, golden}
	r.build(t, golden, s.Sources[0])
	d.Run(t, "clone", golden, "--name", golden+"-first")
	t.Run("sources", r.sources)
	t.Run("isolation", r.isolation)
	t.Run("no recovery", r.noRecovery)
	t.Run("readiness", func(t *testing.T) { r.readiness(t, honest) })
	t.Run("verbs", r.verbs)
	t.Run("password", r.password)
	t.Run("limits", r.limits)
	t.Run("published", r.published)
	t.Run("wrong input", r.wrongInput)
	t.Run("destroy", r.destroy)
}

type runner struct {
	Daemon
	Subject
	golden string
}

// First is the name of the clone of the first source's golden.
func (s Subject) First() string { return "suite-" + s.Engine + "-first" }

func (r runner) build(t *testing.T, name string, src Source) {
	t.Helper()
	args := append([]string{"golden", "build", name, "--engine", r.Engine}, src.Flags(t, r.Daemon)...)
	if !strings.Contains(strings.Join(args, " "), "--parent") {
		args = append(args, r.Base...)
	}
	r.Run(t, args...)
}

// open connects to a clone. The end of the test closes the store.
func (r runner) open(t *testing.T, c api.Clone) Store {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := r.Open(ctx, c)
	if err != nil {
		t.Fatalf("connect to clone %s: %v\n%s", c.ID, err, r.Run(t, "logs", c.ID))
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func get(t *testing.T, s Store, key string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	v, err := s.Get(ctx, key)
	if err != nil {
		t.Fatalf("get %s: %v", key, err)
	}
	return v
}

func put(t *testing.T, s Store, key, value string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := s.Put(ctx, key, value); err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
}

func checkSeed(t *testing.T, s Store) {
	t.Helper()
	for i := range SeedKeys {
		key, want := Seed(i)
		if got := get(t, s, key); got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
}

// sources: each builds a golden whose clones have all of the data.
func (r runner) sources(t *testing.T) {
	for i, src := range r.Sources {
		t.Run(src.Name, func(t *testing.T) {
			name := r.golden
			if i > 0 {
				name = fmt.Sprintf("%s-%d", r.golden, i)
				r.build(t, name, src)
				defer r.Run(t, "golden", "rm", name)
			}
			c := r.Clone(t, name)
			defer r.Run(t, "rm", c.ID)
			s := r.open(t, c)
			checkSeed(t, s)
			put(t, s, "new", "row")
			if got := get(t, s, "new"); got != "row" {
				t.Errorf("what was written is %q", got)
			}
			if src.Check != nil {
				src.Check(t, r.Daemon, c)
			}
		})
	}
}

// isolation: clones that write at random see what they wrote themselves, and the golden
// stays what was built.
func (r runner) isolation(t *testing.T) {
	const clones, writes = 3, 40
	model := make([]map[string]string, clones)
	stores := make([]Store, clones)
	var ids []string
	made := make([]api.Clone, clones)
	for i := range clones {
		c := r.Clone(t, r.golden)
		ids, made[i] = append(ids, c.ID), c
		stores[i], model[i] = r.open(t, c), map[string]string{}
		for k := range SeedKeys {
			key, value := Seed(k)
			model[i][key] = value
		}
	}
	var wg sync.WaitGroup
	for i := range clones {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(i)))
			for n := range writes {
				key, _ := Seed(random.IntN(2 * SeedKeys))
				value := fmt.Sprintf("clone%d-%d", i, n)
				if err := stores[i].Put(context.Background(), key, value); err != nil {
					t.Errorf("clone %d: put %s: %v", i, key, err)
					return
				}
				model[i][key] = value
			}
		})
	}
	wg.Wait()
	for i := range clones {
		if r.Intact != nil {
			r.Intact(t, r.Daemon, made[i])
		}
		for k := range 2 * SeedKeys {
			key, _ := Seed(k)
			if got := get(t, stores[i], key); got != model[i][key] {
				t.Errorf("clone %d: %s is %q, want %q", i, key, got, model[i][key])
			}
		}
	}
	r.Run(t, append([]string{"rm"}, ids...)...)
	r.Run(t, "golden", "verify", r.golden)
	c := r.Clone(t, r.golden)
	checkSeed(t, r.open(t, c))
	r.Run(t, "rm", c.ID)
}

// noRecovery: a clone's server finds data that were shut down.
func (r runner) noRecovery(t *testing.T) {
	if r.Recovered == nil {
		t.Skip("the server does not say")
	}
	if log := r.Run(t, "logs", r.First()); log == "" || r.Recovered.MatchString(log) {
		t.Errorf("the server has recovered, or has logged nothing:\n%s", log)
	}
}

// readiness: the first query right after a clone was handed out succeeds, each time.
func (r runner) readiness(t *testing.T, n int) {
	batch := min(n, 10)
	for done := 0; done < n && !t.Failed(); done += batch {
		out := r.Run(t, "clone", r.golden, "--count", strconv.Itoa(batch), "-o", "json", "--label", "suite="+r.golden)
		for _, c := range decode(t, out) {
			s, err := r.Open(t.Context(), c)
			if err != nil {
				t.Errorf("clone %d: connect: %v", done, err)
				continue
			}
			key, want := Seed(0)
			if got, err := s.Get(t.Context(), key); err != nil || got != want {
				t.Errorf("clone %d: %s is %q, %v", done, key, got, err)
			}
			_ = s.Close()
		}
		r.Run(t, "rm", "--label", "suite="+r.golden)
	}
}

func (r runner) wrongInput(t *testing.T) {
	for _, w := range r.Wrong {
		t.Run(w.Name, func(t *testing.T) {
			args := append([]string{"golden", "build", "wrong-" + r.Engine, "--engine", r.Engine}, w.Flags(t, r.Daemon)...)
			_, stderr, code := r.Try(t, append(args, r.Base...)...)
			if code != 2 && code != 7 || !strings.Contains(stderr, w.Says) {
				t.Errorf("exit code %d, want 2 or 7; does it say %q?\n%s", code, w.Says, stderr)
			}
			if _, _, code := r.Try(t, "golden", "inspect", "wrong-"+r.Engine); code != 3 {
				t.Error("a golden was built")
			}
		})
	}
}

// destroy: all that was made can be removed, and the golden goes once its clones have.
func (r runner) destroy(t *testing.T) {
	if _, _, code := r.Try(t, "golden", "rm", r.golden); code != 8 {
		t.Errorf("a golden with clones: exit code %d, want 8", code)
	}
	r.Run(t, "rm", r.First())
	if _, _, code := r.Try(t, "inspect", r.First()); code != 3 {
		t.Errorf("a clone that was removed: exit code %d, want 3", code)
	}
	r.Run(t, "golden", "rm", r.golden)
}
