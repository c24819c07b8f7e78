package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"

	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/overlay"
)

// machine is a disk whose boots can be told apart.
type machine struct {
	Options
	boot string
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	m := &machine{boot: "one"}
	m.Options = Options{
		Dir: filepath.Join(dir, "checkpoint"), Root: filepath.Join(dir, "root"),
		BootID: func() (string, error) { return m.boot, nil },
	}
	return m
}

// databases are what an embedded containerd has open.
type databases struct {
	*Checkpoint
	sn  snapshots.Snapshotter // as its clients see it
	ctx context.Context
}

// start opens the databases as containerd does, until stop.
func (m *machine) start(t *testing.T) (d databases, stop func()) {
	t.Helper()
	live := m.live(fileMetadata)
	do(t, os.MkdirAll(filepath.Dir(live), 0o700))
	db, err := bolt.Open(live, 0o600, &bolt.Options{NoSync: true, NoGrowSync: true})
	do(t, err)
	sn, err := overlay.New(filepath.Dir(m.live(fileSnapshots)), overlay.Options{})
	do(t, err)
	ctx := namespaces.WithNamespace(t.Context(), snapshot.Namespace)
	meta := metadata.NewDB(db, nil, map[string]snapshots.Snapshotter{snapshot.Snapshotter: sn})
	do(t, meta.Init(ctx))
	return databases{New(m.Options, meta, sn), meta.Snapshotter(snapshot.Snapshotter), ctx}, sync.OnceFunc(func() {
		do(t, meta.Close())
		do(t, sn.Close())
	})
}

// with starts, does something, and stops.
func (m *machine) with(t *testing.T, fn func(databases)) {
	t.Helper()
	d, stop := m.start(t)
	defer stop()
	fn(d)
}

func (d databases) add(t *testing.T, key string) {
	t.Helper()
	_, err := d.sn.Prepare(d.ctx, key, "")
	do(t, err)
}

// assertKeys compares the snapshots, each of which must be in both databases.
func (d databases) assertKeys(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	do(t, d.sn.Walk(d.ctx, func(_ context.Context, i snapshots.Info) error {
		got = append(got, i.Name)
		return nil
	}))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("snapshots: %s", diff)
	}
}

// tear damages the live databases as a power loss may.
func (m *machine) tear(t *testing.T) {
	t.Helper()
	for _, name := range files {
		do(t, os.Truncate(m.live(name), 5000))
	}
	m.boot += "+"
}

// boots does what a start of the daemon does.
func (m *machine) boots() (Report, error) {
	r, err := Restore(m.Options)
	if err == nil && r.Restarted {
		err = Confirm(m.Options)
	}
	return r, err
}

// TestCutOffBeforeConfirm: a start that did not come to its end is no start.
func TestCutOffBeforeConfirm(t *testing.T) {
	m := newMachine(t)
	m.with(t, func(d databases) {
		d.add(t, "a")
		do(t, d.Save(d.ctx))
	})
	m.tear(t)
	for range 2 {
		r, err := Restore(m.Options)
		if err != nil || !r.Restarted || !r.Restored {
			t.Errorf("report %+v, %v", r, err)
		}
	}
	_, err := m.boots()
	do(t, err)
	m.with(t, func(d databases) { d.assertKeys(t, "a") })
}

func TestSameBootKeepsLive(t *testing.T) {
	m := newMachine(t)
	_, err := m.boots()
	do(t, err)
	m.with(t, func(d databases) {
		d.add(t, "a")
		do(t, d.Save(d.ctx))
		d.add(t, "b")
	})
	r, err := m.boots()
	if diff := cmp.Diff(Report{}, r); err != nil || diff != "" {
		t.Errorf("report: %v %s", err, diff)
	}
	m.with(t, func(d databases) { d.assertKeys(t, "a", "b") })
}

func TestOtherBootTakesCheckpoint(t *testing.T) {
	m := newMachine(t)
	m.with(t, func(d databases) {
		for _, key := range []string{"a", "b", "c", "d"} {
			d.add(t, key)
			do(t, d.Save(d.ctx))
		}
		d.add(t, "lost")
	})
	if n, err := list(m.Dir); len(n) != kept || err != nil {
		t.Errorf("checkpoints kept: %v, %v", n, err)
	}
	m.tear(t)
	for range 2 { // the second start is in the same boot
		r, err := m.boots()
		do(t, err)
		if r.Restarted != r.Restored || r.Restarted == r.Taken.IsZero() || r.Removed || len(r.Damaged) > 0 {
			t.Errorf("report %+v", r)
		}
		m.with(t, func(d databases) { d.assertKeys(t, "a", "b", "c", "d") })
	}
}

func TestOtherBootWithoutCheckpoint(t *testing.T) {
	m := newMachine(t)
	m.with(t, func(d databases) { d.add(t, "a") })
	m.tear(t)
	r, err := m.boots()
	if diff := cmp.Diff(Report{Restarted: true, Removed: true}, r); err != nil || diff != "" {
		t.Errorf("report: %v %s", err, diff)
	}
	m.with(t, func(d databases) { d.assertKeys(t) })
}

// TestDamaged damages each file of the last checkpoint in turn: the one before is
// used. If that is damaged too, nothing is touched.
func TestDamaged(t *testing.T) {
	for _, name := range append(files, fileManifest) {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.with(t, func(d databases) {
				d.add(t, "a")
				do(t, d.Save(d.ctx))
				d.add(t, "b")
				do(t, d.Save(d.ctx))
			})
			flip(t, filepath.Join(path(m.Dir, 2), name))
			m.tear(t)
			r, err := m.boots()
			do(t, err)
			if diff := cmp.Diff([]string{path(m.Dir, 2)}, r.Damaged); diff != "" || !r.Restored {
				t.Errorf("report %+v", r)
			}
			m.with(t, func(d databases) { d.assertKeys(t, "a") })

			flip(t, filepath.Join(path(m.Dir, 1), name))
			m.tear(t)
			for range 2 {
				_, err = m.boots()
				var hint interface{ Hint() string }
				if !errdefs.IsDataLoss(err) || !errors.As(err, &hint) {
					t.Errorf("nothing whole left: %v", err)
				}
			}
			if fi, err := os.Stat(m.live(fileMetadata)); err != nil || fi.Size() != 5000 {
				t.Errorf("live database was touched: %v", err)
			}
		})
	}
}

// flip changes one byte in the middle of a file.
func flip(t *testing.T, name string) {
	t.Helper()
	b, err := os.ReadFile(name)
	do(t, err)
	b[len(b)/2] ^= 1
	do(t, os.WriteFile(name, b, 0o600))
}

// TestCutOff ends Save and Restore before each of their steps.
func TestCutOff(t *testing.T) {
	broken := errors.New("broken")
	for _, step := range []string{"sync", "write", "rename", "prune", "install " + fileSnapshots, "install " + fileMetadata, "boot"} {
		t.Run(step, func(t *testing.T) {
			m := newMachine(t)
			m.with(t, func(d databases) {
				d.add(t, "a")
				do(t, d.Save(d.ctx))
			})
			whole := m.Options
			m.Failpoint = func(s string) error {
				if s == step {
					return broken
				}
				return nil
			}
			var saved error
			m.with(t, func(d databases) {
				d.add(t, "b")
				saved = d.Save(d.ctx)
			})
			m.tear(t)
			_, err := m.boots()
			if !errors.Is(errors.Join(saved, err), broken) {
				t.Fatalf("step was not reached: %v, %v", saved, err)
			}
			m.Options = whole
			_, err = m.boots()
			do(t, err)
			want := []string{"a", "b"}
			if saved != nil && step != "prune" {
				want = want[:1]
			}
			m.with(t, func(d databases) {
				d.assertKeys(t, want...)
				do(t, d.Save(d.ctx))
			})
		})
	}
}

// TestConsistent saves while snapshots come and go: whatever a checkpoint says is
// there is in both of its databases.
func TestConsistent(t *testing.T) {
	m := newMachine(t)
	m.with(t, func(d databases) {
		ctx, cancel := context.WithCancel(d.ctx)
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		for w := range 4 {
			wg.Go(func() { churn(t, ctx, d.sn, w) })
		}
		for range 20 {
			do(t, d.Save(d.ctx))
			assertWhole(t, m, d.ctx)
		}
	})
}

// churn makes, commits and removes snapshots until ctx ends.
func churn(t *testing.T, ctx context.Context, sn snapshots.Snapshotter, worker int) {
	done, ctx := ctx.Done(), context.WithoutCancel(ctx)
	for i := 0; ; i++ {
		select {
		case <-done:
			return
		default:
		}
		key := fmt.Sprintf("w%d-%d", worker, i)
		_, err := sn.Prepare(ctx, key, "")
		err = errors.Join(err, sn.Commit(ctx, key+"-golden", key))
		if i%2 == 0 {
			err = errors.Join(err, sn.Remove(ctx, key+"-golden"))
		}
		if err != nil {
			t.Error(err)
			return
		}
	}
}

// assertWhole opens the last checkpoint elsewhere and asks for every snapshot.
func assertWhole(t *testing.T, m *machine, ctx context.Context) {
	t.Helper()
	n, err := list(m.Dir)
	do(t, err)
	_, err = read(path(m.Dir, n[0]))
	do(t, err)
	other := &machine{Options: Options{Root: t.TempDir()}, boot: "x"}
	do(t, other.complete().install(path(m.Dir, n[0])))
	other.with(t, func(d databases) {
		// Walk passes over what the snapshotter lacks, so containerd's buckets
		// are read (core/metadata/buckets.go).
		do(t, d.metadata.View(func(tx *bolt.Tx) error {
			bkt := tx.Bucket([]byte("v1"))
			for _, name := range []string{snapshot.Namespace, "snapshots", snapshot.Snapshotter} {
				if bkt = bkt.Bucket([]byte(name)); bkt == nil {
					return nil
				}
			}
			return bkt.ForEachBucket(func(key []byte) error {
				_, err := d.snapshots.Stat(ctx, string(bkt.Bucket(key).Get([]byte("name"))))
				return err
			})
		}))
	})
}

func do(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestDamagedInTheSameBoot: a live database that cannot be read is left as it is, and named.
// Without the word of which boot it is of, the checkpoint takes its place.
func TestDamagedInTheSameBoot(t *testing.T) {
	for _, name := range files {
		for what, damage := range map[string]func(path string) error{
			"missing": os.Remove,
			"empty":   func(path string) error { return os.Truncate(path, 0) },
			"cut off": func(path string) error { return os.Truncate(path, 3*int64(os.Getpagesize())) },
			"pages": func(path string) error {
				b, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				for i := 2 * os.Getpagesize(); i < len(b); i++ {
					b[i] ^= 0xff
				}
				return os.WriteFile(path, b, 0o600)
			},
		} {
			t.Run(name+" "+what, func(t *testing.T) {
				m := newMachine(t)
				_, err := m.boots()
				do(t, err)
				m.with(t, func(d databases) {
					d.add(t, "a")
					do(t, d.Save(d.ctx))
				})
				do(t, damage(m.live(name)))
				before, _ := os.ReadFile(m.live(name))
				r, err := m.boots()
				var hint interface{ Hint() string }
				if !errdefs.IsDataLoss(err) || !errors.As(err, &hint) || !strings.Contains(err.Error(), m.live(name)) || r.Restored {
					t.Errorf("report %+v, %v", r, err)
				}
				if now, _ := os.ReadFile(m.live(name)); !bytes.Equal(before, now) {
					t.Error("it was changed")
				}
				do(t, os.Remove(filepath.Join(m.Dir, fileBoot)))
				_, err = m.boots()
				do(t, err)
				m.with(t, func(d databases) { d.assertKeys(t, "a") })
			})
		}
	}
}
