package golden

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/containerd"
	"github.com/ctrsnap/ctrsnap/snapshot/containerd/containerdtest"
	"github.com/ctrsnap/ctrsnap/snapshot/overlay"
)

func TestMain(m *testing.M) {
	containerdtest.Main()
	os.Exit(m.Run())
}

// TestEmbedded runs the suite on a containerd in this process.
func TestEmbedded(t *testing.T) {
	needRoot(t)
	if !containerdtest.Alone(t) {
		return
	}
	srv, err := containerd.Start(t.Context(), containerdtest.Options(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, srv) })
	suite(t, srv)
}

// TestExternal runs the suite on a containerd in another process.
func TestExternal(t *testing.T) {
	needRoot(t)
	srv, err := containerd.Connect(t.Context(), containerdtest.Serve(t, t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, srv) })
	suite(t, srv)
}

// suite is the contract of snapshot.Store. Each test has goldens of its own names
// and ends with nothing left.
func suite(t *testing.T, srv *containerd.Server) {
	for name, test := range map[string]func(*testing.T, *env){
		"Life":         testLife,
		"Versions":     testVersions,
		"InUse":        testInUse,
		"NotFound":     testNotFound,
		"Collected":    testCollected,
		"Digest":       testDigest,
		"Scrub":        testScrub,
		"Devices":      testDevices,
		"Foreign":      testForeign,
		"Failpoints":   testFailpoints,
		"StillMounted": testStillMounted,
		"Race":         testRace,
		"Exclusive":    testExclusive,
		"Closed":       testClosed,
		"PoolSizes":    testPoolSizes,
		"Access":       testAccess,
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t, srv, Options{})
			test(t, e)
			e.assertEmpty(t)
		})
	}
}

// testLife takes one golden and two clones from the cradle to the grave.
func testLife(t *testing.T, e *env) {
	saves := 0
	e.Store = New(e.srv.Client(), Options{Save: func(context.Context) error { saves++; return nil }})
	g := e.commit(t, "shop", e.base, "data", "golden")
	want := snapshot.Golden{
		Name: "shop", Version: 1, Current: true, Snapshot: "ctrsnap/golden/shop/1/blife1", Size: g.Size, Access: snapshot.DefaultAccess,
		Description: snapshot.Description{Engine: "postgres", Created: g.Created, Digest: g.Digest, Base: snapshot.Base{Snapshot: e.base}},
	}
	if diff := cmp.Diff(want, g); diff != "" || g.Size == 0 || g.Digest == "" || saves != 1 {
		t.Errorf("after %d checkpoints, golden differs: %s", saves, diff)
	}
	for _, ref := range []string{"shop", "shop:1"} {
		got, err := e.Golden(e.ctx, mustRef(t, ref))
		if diff := cmp.Diff(g, got); diff != "" || err != nil {
			t.Errorf("Golden(%s): %v %s", ref, err, diff)
		}
	}
	one, two := e.prepare(t, "c1", g), e.prepare(t, "c2", g)
	write(t, one, "data", "one")
	if got := read(t, two, "data"); got != "golden" {
		t.Errorf("clone c2 reads %q", got)
	}
	if got := read(t, one, "base"); got != "base" {
		t.Errorf("clone c1 reads %q of the base", got)
	}
	if err := e.VerifyDigest(e.ctx, g.Ref()); err != nil {
		t.Error(err)
	}
	ids, err := e.Clones(e.ctx)
	if diff := cmp.Diff([]string{"c1", "c2"}, ids); err != nil || diff != "" {
		t.Errorf("Clones: %v %s", err, diff)
	}
	if n, err := e.Usage(e.ctx, "c1"); err != nil || n == 0 {
		t.Errorf("Usage = %d, %v", n, err)
	}
	for _, id := range []string{"c1", "c2", "c1"} {
		if err := e.Remove(e.ctx, id); err != nil {
			t.Error(err)
		}
	}
	if err := e.RemoveGolden(e.ctx, mustRef(t, "shop")); err != nil || saves != 2 {
		t.Errorf("after %d checkpoints: %v", saves, err)
	}
}

func testVersions(t *testing.T, e *env) {
	for range 3 {
		e.commit(t, "shop", e.base, "data", "x")
	}
	e.commit(t, "acme", e.base, "data", "x")
	e.assertGoldens(t, "acme:1*", "shop:1", "shop:2", "shop:3*")
	do(t, e.Promote(e.ctx, mustRef(t, "shop:1")))
	e.assertGoldens(t, "acme:1*", "shop:1*", "shop:2", "shop:3")
	do(t, e.RemoveGolden(e.ctx, mustRef(t, "shop:1"))) // current goes to the highest left
	e.assertGoldens(t, "acme:1*", "shop:2", "shop:3*")
	do(t, e.RemoveGolden(e.ctx, mustRef(t, "shop:2")))
	if g := e.commit(t, "shop", e.base, "data", "x"); g.Version != 4 {
		t.Errorf("version %d after 3 was kept", g.Version)
	}
	if err := e.Promote(e.ctx, mustRef(t, "shop")); !errdefs.IsInvalidArgument(err) {
		t.Errorf("Promote without a version: %v", err)
	}
	do(t, e.RemoveGolden(e.ctx, mustRef(t, "shop")))
	do(t, e.RemoveGolden(e.ctx, mustRef(t, "acme")))
}

func testInUse(t *testing.T, e *env) {
	parent := e.commit(t, "shop", e.base, "data", "x")
	e.commit(t, "shop", parent.Snapshot, "more", "y")
	child := e.commit(t, "child", parent.Snapshot, "more", "y")
	e.prepare(t, "c1", parent)
	b, err := e.Begin(e.ctx, "bopen", parent.Snapshot)
	do(t, err)
	err = e.RemoveGolden(e.ctx, mustRef(t, "shop:1"))
	if !errdefs.IsFailedPrecondition(err) || hint(err) == "" {
		t.Fatalf("got %v, hint %q", err, hint(err))
	}
	for _, user := range []string{"build bopen", "clone c1", "golden child:1", "golden shop:2"} {
		if !strings.Contains(err.Error(), user) {
			t.Errorf("%v does not name %s", err, user)
		}
	}
	e.assertGoldens(t, "child:1*", "shop:1", "shop:2*")
	do(t, b.Close(e.ctx))
	do(t, e.Remove(e.ctx, "c1"))
	do(t, e.RemoveGolden(e.ctx, child.Ref()))
	do(t, e.RemoveGolden(e.ctx, mustRef(t, "shop"))) // both at once, though one stands on the other
}

func testNotFound(t *testing.T, e *env) {
	gone := e.commit(t, "shop", e.base, "data", "x")
	do(t, e.RemoveGolden(e.ctx, gone.Ref()))
	again := e.commit(t, "shop", e.base, "data", "x")
	ref := mustRef(t, "none:7")
	_, err := e.Golden(e.ctx, ref)
	_, perr := e.Prepare(e.ctx, "c1", snapshot.Golden{Name: "none", Version: 7, Snapshot: "x"})
	_, aerr := e.Prepare(e.ctx, "c1", gone) // its name and version are another golden's now
	for what, err := range map[string]error{
		"Golden": err, "Prepare": perr, "Prepare of one built anew": aerr,
		"Promote": e.Promote(e.ctx, ref), "RemoveGolden": e.RemoveGolden(e.ctx, ref), "VerifyDigest": e.VerifyDigest(e.ctx, ref),
	} {
		if !errdefs.IsNotFound(err) || !strings.Contains(hint(err), "golden ls") {
			t.Errorf("%s: %v, hint %q", what, err, hint(err))
		}
	}
	for _, id := range []string{"../x", "ctrsnap/golden/shop/1/b1", ""} {
		if _, err := e.Prepare(e.ctx, id, again); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Prepare of id %q: %v", id, err)
		}
		if err := e.Remove(e.ctx, id); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Remove of id %q: %v", id, err)
		}
	}
	if _, err := e.Begin(e.ctx, "b9", "no-such-parent"); !errdefs.IsNotFound(err) {
		t.Errorf("Begin on nothing: %v", err)
	}
	do(t, e.RemoveGolden(e.ctx, again.Ref()))
}

// testCollected runs the garbage collector while everything is in use.
func testCollected(t *testing.T, e *env) {
	g := e.commit(t, "shop", e.base, "data", "golden")
	dir := e.prepare(t, "c1", g)
	b, err := e.Begin(e.ctx, "bopen", g.Snapshot)
	do(t, err)
	do(t, e.collect(namespaced(e.ctx)))
	write(t, dir, "data", "clone")
	if got := read(t, e.mount(t, b.Mounts()), "data"); got != "golden" {
		t.Errorf("build reads %q", got)
	}
	e.records.cache.Clear()
	e.assertGoldens(t, "shop:1*")
	do(t, e.VerifyDigest(e.ctx, g.Ref()))
	do(t, b.Close(e.ctx))
	do(t, b.Close(e.ctx))
	do(t, e.Remove(e.ctx, "c1"))
	do(t, e.RemoveGolden(e.ctx, g.Ref()))
}

// testDigest damages a golden behind its back.
func testDigest(t *testing.T, e *env) {
	a := e.commit(t, "shop", e.base, "data", "same")
	b := e.commit(t, "shop", e.base, "data", "same")
	if a.Digest != b.Digest {
		t.Error("two builds of the same have different digests")
	}
	l, err := e.srv.Client().SnapshotService(snapshot.Snapshotter).View(namespaced(e.ctx), "look", b.Snapshot,
		snapshots.WithLabels(map[string]string{labelRoot: "x"}))
	do(t, err)
	dir, err := overlay.UpperDir(l)
	do(t, err)
	write(t, dir, "data", "samE")
	above := e.commit(t, "above", b.Snapshot, "more", "of it")
	if err := e.VerifyDigest(e.ctx, b.Ref()); !errdefs.IsDataLoss(err) {
		t.Errorf("digest of a changed golden: %v", err)
	}
	do(t, e.VerifyDigest(e.ctx, a.Ref()))
	for ref, want := range map[snapshot.Ref]bool{a.Ref(): false, b.Ref(): true, above.Ref(): true, {Name: "shop"}: true} {
		g, err := e.Golden(e.ctx, ref)
		do(t, err)
		if _, err := e.Prepare(e.ctx, "clone-of-damaged", g); errdefs.IsDataLoss(err) != want || (g.Damaged() != nil) != want {
			t.Errorf("clone of %s: %v, damaged %s", ref, err, g.DamagedAt)
		}
		do(t, e.Remove(e.ctx, "clone-of-damaged"))
	}
	if err := e.VerifyDigest(e.ctx, above.Ref()); !errdefs.IsDataLoss(err) {
		t.Errorf("what is built on a damaged golden: %v", err)
	}
	write(t, dir, "data", "same")
	do(t, e.VerifyDigest(e.ctx, b.Ref()))
	do(t, e.VerifyDigest(e.ctx, above.Ref()))
	if g, err := e.Golden(e.ctx, above.Ref()); err != nil || g.Damaged() != nil {
		t.Errorf("sound again: %+v, %v", g, err)
	}
	do(t, e.RemoveGolden(e.ctx, mustRef(t, "above")))
	do(t, e.snapshots.Remove(namespaced(e.ctx), "look"))
	do(t, e.RemoveGolden(e.ctx, mustRef(t, "shop")))
}

// testDevices has a golden of a release that let devices in: nobody opens one in a clone, nor where it is built on.
func testDevices(t *testing.T, e *env) {
	g := e.commit(t, "shop", e.base, "data", "of it")
	l, err := e.snapshots.View(namespaced(e.ctx), "look", g.Snapshot, snapshots.WithLabels(map[string]string{labelRoot: "x"}))
	do(t, err)
	dir, err := overlay.UpperDir(l)
	do(t, err)
	do(t, unix.Mknod(filepath.Join(dir, "zero"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))))
	do(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o666))
	b, err := e.Begin(e.ctx, "bdevices", g.Snapshot)
	do(t, err)
	for what, dir := range map[string]string{"clone": e.prepare(t, "clone-devices", g), "build": e.mount(t, b.Mounts())} {
		if _, err := os.Open(filepath.Join(dir, "zero")); !errors.Is(err, unix.EACCES) {
			t.Errorf("open device in a %s: %v", what, err)
		}
		var st unix.Statfs_t
		do(t, unix.Statfs(dir, &st))
		if st.Flags&unix.ST_NOSUID == 0 {
			t.Errorf("programs may change their user in a %s", what)
		}
		do(t, mount.UnmountAll(dir, 0))
	}
	if err := e.VerifyDigest(e.ctx, g.Ref()); !errdefs.IsDataLoss(err) { // and it does not hang
		t.Errorf("verify a golden that was given a FIFO: %v", err)
	}
	do(t, b.Close(e.ctx))
	do(t, e.Remove(e.ctx, "clone-devices"))
	do(t, e.snapshots.Remove(namespaced(e.ctx), "look"))
	do(t, e.RemoveGolden(e.ctx, mustRef(t, "shop")))
}

// testScrub has a golden that changes below found in the background, once, and all goldens
// verified that were not since a moment.
func testScrub(t *testing.T, e *env) {
	g := e.commit(t, "shop", e.base, "data", strings.Repeat("x", 3<<20+5))
	sound := e.commit(t, "sound", e.base, "data", "same")
	l, err := e.snapshots.View(namespaced(e.ctx), "look", g.Snapshot, snapshots.WithLabels(map[string]string{labelRoot: "x"}))
	do(t, err)
	dir, err := overlay.UpperDir(l)
	do(t, err)
	write(t, dir, "data", strings.Repeat("x", 3<<20+4)+"y")
	ctx, cancel := context.WithTimeout(e.ctx, time.Minute)
	defer cancel()
	var paced int
	var failed []string
	marked := make(chan snapshot.Golden, 9)
	s := New(e.srv.Client(), Options{Marked: func(_ context.Context, g snapshot.Golden) { marked <- g }})
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Scrub(ctx, snapshot.ScrubOpts{
			Every: time.Hour, Since: time.Now(),
			Pace: func(ctx context.Context) error { paced++; return ctx.Err() },
			Failed: func(g snapshot.Golden, err error) {
				if failed = append(failed, g.Name); !errdefs.IsDataLoss(err) {
					t.Errorf("verify %s: %v", g.Ref(), err)
				}
			},
		})
	}()
	select {
	case got := <-marked:
		if got.Ref() != g.Ref() || got.Damaged() == nil {
			t.Errorf("marked is %+v", got)
		}
	case <-ctx.Done():
		t.Error("nothing was found")
	}
	for s.verifiedAt(ctx, sound).IsZero() && ctx.Err() == nil {
		time.Sleep(time.Millisecond) //nolint:forbidigo // a record has no event
	}
	cancel()
	<-done
	if paced < 3 || len(failed) != 1 || len(marked) > 0 {
		t.Errorf("paced %d times, failed %v, marked %d more", paced, failed, len(marked))
	}
	do(t, e.snapshots.Remove(namespaced(e.ctx), "look"))
	do(t, e.RemoveGolden(e.ctx, mustRef(t, "shop")))
	do(t, e.RemoveGolden(e.ctx, mustRef(t, "sound")))
}

// testForeign has images around that are no goldens, one with a golden's name.
func testForeign(t *testing.T, e *env) {
	target := ocispec.Descriptor{MediaType: "x/y", Digest: digest.FromString("x"), Size: 1}
	ctx := namespaced(e.ctx)
	for _, name := range []string{"shop:1", "docker.io/library/postgres:16"} {
		_, err := e.records.images.Create(ctx, images.Image{Name: name, Target: target})
		do(t, err)
	}
	e.assertGoldens(t)
	if _, err := e.Golden(ctx, mustRef(t, "shop:1")); !errdefs.IsNotFound(err) {
		t.Errorf("an image passes for a golden: %v", err)
	}
	for _, name := range []string{"shop:1", "docker.io/library/postgres:16"} {
		do(t, e.records.images.Delete(ctx, name))
	}
}

// testFailpoints fails Commit, RemoveGolden and Promote at each of their steps:
// all is then as it was before.
func testFailpoints(t *testing.T, e *env) {
	g := e.commit(t, "shop", e.base, "data", "x")
	e.commit(t, "shop", e.base, "data", "x")
	broken := errors.New("broken")
	for _, step := range commitSteps {
		s := New(e.srv.Client(), Options{Failpoint: failAt(step, func() error { return broken })})
		b, err := s.Begin(e.ctx, "bfail", e.base)
		do(t, err)
		if _, err := b.Commit(e.ctx, snapshot.Golden{Name: "shop"}); !errors.Is(err, broken) {
			t.Errorf("Commit at %s: %v", step, err)
		}
		do(t, b.Close(e.ctx))
		e.assertGoldens(t, "shop:1", "shop:2*")
		e.assertNoBuild(t)
	}
	for _, c := range changes {
		for _, step := range c.steps {
			s := New(e.srv.Client(), Options{Failpoint: failAt(step, func() error { return broken })})
			if err := c.do(e.ctx, s, e.base); !errors.Is(err, broken) {
				t.Errorf("%s at %s: %v", c.name, step, err)
			}
			if c.isDone(step) {
				e.assertGoldens(t, "shop:1*")
				_, err := e.Reconcile(e.ctx, ReconcileOpts{})
				do(t, err)
				e.commit(t, "shop", e.base, "data", "x")
			}
			e.assertGoldens(t, "shop:1", "shop:2*")
			e.assertNoBuild(t)
			e.assertLabels(t)
		}
	}
	for _, step := range []string{"hold", "heir", "forget", "checkpoint"} { // all versions
		s := New(e.srv.Client(), Options{Failpoint: failAt(step, func() error { return broken })})
		if err := s.RemoveGolden(e.ctx, mustRef(t, "shop")); !errors.Is(err, broken) {
			t.Errorf("RemoveGolden of all at %s: %v", step, err)
		}
		e.assertGoldens(t, "shop:1", "shop:2*")
		e.assertNoBuild(t)
	}
	do(t, e.collect(namespaced(e.ctx)))
	e.assertGoldens(t, "shop:1", "shop:2*")
	do(t, e.VerifyDigest(e.ctx, g.Ref()))
	do(t, e.RemoveGolden(e.ctx, mustRef(t, "shop")))
}

// assertLabels fails if what was to be set of shop is, though that failed.
func (e *env) assertLabels(t *testing.T) {
	t.Helper()
	sizes, err := e.PoolSizes(e.ctx)
	do(t, err)
	g, err := e.Golden(e.ctx, mustRef(t, "shop"))
	do(t, err)
	if len(sizes) > 0 || g.Access != snapshot.DefaultAccess {
		t.Errorf("sizes of pools %v, access %s", sizes, g.Access)
	}
}

// commitSteps are the failpoints of Commit, in their order.
var commitSteps = []string{"sync", "snapshot", "content", "record", "current", "lease", "checkpoint"}

// oneChange is a change of shop:1 and shop:2, of which the latter is current.
type oneChange struct {
	name  string
	steps []string // its failpoints, in their order
	do    func(ctx context.Context, s *Store, base string) error
}

// changes are those beside Commit.
var changes = []oneChange{
	{"begin", []string{"begin", "leased", "opened"}, func(ctx context.Context, s *Store, base string) error {
		_, err := s.Begin(ctx, "bbegun", base)
		return err
	}},
	{"promote", []string{"promote", "checkpoint"}, func(ctx context.Context, s *Store, _ string) error {
		return s.Promote(ctx, snapshot.Ref{Name: "shop", Version: 1})
	}},
	{"remove", []string{"hold", "heir", "forget", "checkpoint", "remove", "release"}, func(ctx context.Context, s *Store, _ string) error {
		return s.RemoveGolden(ctx, snapshot.Ref{Name: "shop", Version: 2})
	}},
	{"set access", []string{"label", "checkpoint"}, func(ctx context.Context, s *Store, _ string) error {
		return s.SetAccess(ctx, "shop", snapshot.Access{Owner: 7, Mode: 0o600})
	}},
	{"set pool size", []string{"label", "checkpoint"}, func(ctx context.Context, s *Store, _ string) error {
		return s.SetPoolSize(ctx, "shop", 3)
	}},
}

// isDone says that a change holds though a step of it fails: what comes after its
// checkpoint is garbage that a start collects.
func (c oneChange) isDone(step string) bool { return step == "remove" || step == "release" }

func testStillMounted(t *testing.T, e *env) {
	b, err := e.Begin(e.ctx, "b1", e.base)
	do(t, err)
	dir := t.TempDir()
	do(t, mount.All(b.Mounts(), dir))
	if _, err := b.Commit(e.ctx, snapshot.Golden{Name: "shop"}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Commit of a mounted layer: %v", err)
	}
	do(t, mount.UnmountAll(dir, 0))
	do(t, b.Close(e.ctx))
}

// testRace clones a golden while it is removed: each clone that was handed out
// can be used.
func testRace(t *testing.T, e *env) {
	for range 5 {
		g := e.commit(t, "shop", e.base, "data", "golden")
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				_, err := e.Prepare(e.ctx, fmt.Sprintf("c%d", i), g)
				if err != nil && !errdefs.IsNotFound(err) {
					t.Error(err)
				}
			})
		}
		err := e.RemoveGolden(e.ctx, g.Ref())
		wg.Wait()
		ids, cerr := e.Clones(e.ctx)
		do(t, cerr)
		if err == nil && len(ids) > 0 {
			t.Errorf("clones %v of a golden that was removed", ids)
		}
		for _, id := range ids {
			do(t, e.Remove(e.ctx, id))
		}
		if err != nil {
			do(t, e.RemoveGolden(e.ctx, g.Ref()))
		}
	}
}

// testExclusive has Usage ask about the clone's own layer.
func testExclusive(t *testing.T, e *env) {
	g := e.commit(t, "shop", e.base, "data", "x")
	var asked string
	e.Store = New(e.srv.Client(), Options{Exclusive: func(_ context.Context, path string) (int64, error) {
		asked = path
		return 4242, nil
	}})
	write(t, e.prepare(t, "c1", g), "mine", "x")
	if n, err := e.Usage(e.ctx, "c1"); n != 4242 || err != nil {
		t.Errorf("Usage = %d, %v", n, err)
	}
	if _, err := os.Stat(filepath.Join(asked, "mine")); err != nil {
		t.Errorf("asked about %q: %v", asked, err)
	}
	if _, err := e.Usage(e.ctx, "none"); !errdefs.IsNotFound(err) {
		t.Errorf("Usage of no clone: %v", err)
	}
	do(t, e.Remove(e.ctx, "c1"))
	do(t, e.RemoveGolden(e.ctx, g.Ref()))
}

func testClosed(t *testing.T, e *env) {
	b, err := e.Begin(e.ctx, "b1", e.base)
	do(t, err)
	if _, err := e.Begin(e.ctx, "b1", e.base); !errdefs.IsAlreadyExists(err) {
		t.Errorf("second Begin with the same id: %v", err)
	}
	if _, err := b.Commit(e.ctx, snapshot.Golden{Name: "no/name"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("Commit with a bad name: %v", err)
	}
	do(t, b.Close(e.ctx))
	if _, err := b.Commit(e.ctx, snapshot.Golden{Name: "shop"}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Commit after Close: %v", err)
	}
}
