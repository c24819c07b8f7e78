package golden

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/typeurl/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/checkpoint"
	"github.com/ctrsnap/ctrsnap/snapshot/containerd"
	"github.com/ctrsnap/ctrsnap/snapshot/containerd/containerdtest"
)

// Environment of the processes that a crash test consists of.
const (
	envPhase = "CTRSNAP_TEST_PHASE"
	envStep  = "CTRSNAP_TEST_STEP"
	envDir   = "CTRSNAP_TEST_DIR"
	envBoot  = "CTRSNAP_TEST_BOOT"
	// envChange is which of changes a process does.
	envChange = "CTRSNAP_TEST_CHANGE"
)

// phase runs one phase of a top-level test in a process of its own.
func phase(t *testing.T, test, name, dir string, env ...string) error {
	t.Helper()
	// The phase ends by a signal and cannot remove its temporary files.
	env = append(env, envPhase+"="+name, envDir+"="+dir, "TMPDIR="+t.TempDir())
	out, err := containerdtest.Command(t, test, env...).CombinedOutput()
	t.Logf("%s %q: %v\n%s", name, env, err, out)
	return err
}

// boot starts containerd as the daemon does: checkpoint, containerd, store. The
// environment says which boot of the machine it is.
func boot(t *testing.T, o Options) (*env, checkpoint.Report) {
	t.Helper()
	dir := os.Getenv(envDir)
	co := checkpoint.Options{
		Dir: filepath.Join(dir, "checkpoint"), Root: filepath.Join(dir, "root"),
		BootID: func() (string, error) { return os.Getenv(envBoot), nil },
	}
	report, err := checkpoint.Restore(co)
	do(t, err)
	do(t, checkpoint.Confirm(co))
	opts := containerdtest.Options(dir)
	opts.Recover = report.Restarted
	srv, err := containerd.Start(t.Context(), opts)
	do(t, err)
	t.Cleanup(func() { stop(t, srv) })
	db, sn := srv.Databases()
	o.Save = checkpoint.New(co, db, sn).Save
	return &env{Store: New(srv.Client(), o), ctx: t.Context(), srv: srv, base: "base"}, report
}

// makeBase gives a fresh env something to build on.
func (e *env) makeBase(t *testing.T) {
	t.Helper()
	ctx, root := namespaced(e.ctx), snapshots.WithLabels(map[string]string{labelRoot: "x"})
	mounts, err := e.snapshots.Prepare(ctx, "active", "", root)
	do(t, err)
	write(t, mounts[0].Source, "base", "base")
	do(t, e.snapshots.Commit(ctx, e.base, "active", root))
}

// TestCrash kills the process at each step of Commit. After Reconcile the golden
// is not there, nor is anything of it, and the next build finds its way.
func TestCrash(t *testing.T) {
	needRoot(t)
	switch os.Getenv(envPhase) {
	case "commit":
		crashCommit(t)
		return
	case "check":
		crashCheck(t)
		return
	}
	for _, step := range commitSteps {
		t.Run(step, func(t *testing.T) {
			dir := t.TempDir()
			if err := phase(t, "TestCrash", "commit", dir, envStep+"="+step, envBoot+"=1"); err == nil {
				t.Fatal("survived")
			}
			if err := phase(t, "TestCrash", "check", dir, envBoot+"=1"); err != nil {
				t.Error(err)
			}
		})
	}
}

func crashCommit(t *testing.T) {
	armed := false
	e, _ := boot(t, Options{Failpoint: func(step string) error {
		if armed && step == os.Getenv(envStep) {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return nil
	}})
	e.makeBase(t)
	e.commit(t, "shop", e.base, "data", "first")
	armed = true
	e.commit(t, "shop", e.base, "data", "second")
}

func crashCheck(t *testing.T) {
	e, report := boot(t, Options{})
	if report.Restarted {
		t.Errorf("taken for another boot: %+v", report)
	}
	r, err := e.Reconcile(e.ctx, ReconcileOpts{})
	do(t, err)
	// Once the lease is gone the golden is whole; only then may it be there.
	if os.Getenv(envStep) == "checkpoint" || len(r.Builds) == 0 {
		e.assertGoldens(t, "shop:1", "shop:2*")
		do(t, e.VerifyDigest(e.ctx, mustRef(t, "shop:2")))
		do(t, e.RemoveGolden(e.ctx, mustRef(t, "shop:2")))
	}
	e.assertGoldens(t, "shop:1*")
	e.assertNoBuild(t)
	do(t, e.VerifyDigest(e.ctx, mustRef(t, "shop:1")))
	e.builds = 10
	if g := e.commit(t, "shop", e.base, "data", "third"); g.Version != 2 {
		t.Errorf("next build is version %d", g.Version)
	}
	do(t, e.RemoveGolden(e.ctx, mustRef(t, "shop")))
	e.assertEmpty(t)
}

// TestCrashOfChanges kills the process at each step of what is done with goldens beside Commit. After Reconcile
// there is nothing of a build that was begun, no version is lost but the one that was being removed, one of those
// left is current, and all of it can be done again.
func TestCrashOfChanges(t *testing.T) {
	needRoot(t)
	switch os.Getenv(envPhase) {
	case "change":
		crashChange(t)
		return
	case "check":
		crashChangeCheck(t)
		return
	}
	for i, c := range changes {
		if c.name == "set pool size" {
			continue // a label, as the access is
		}
		for _, step := range c.steps {
			t.Run(c.name+"/"+step, func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				env := []string{envStep + "=" + step, envChange + "=" + strconv.Itoa(i), envBoot + "=1"}
				if err := phase(t, "TestCrashOfChanges", "change", dir, env...); err == nil {
					t.Fatal("survived")
				}
				if err := phase(t, "TestCrashOfChanges", "check", dir, env...); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// changeOf returns the change and the step that the environment names.
func changeOf(t *testing.T) (oneChange, string) {
	t.Helper()
	i, err := strconv.Atoi(os.Getenv(envChange))
	do(t, err)
	return changes[i], os.Getenv(envStep)
}

func crashChange(t *testing.T) {
	c, at := changeOf(t)
	armed := false
	e, _ := boot(t, Options{Failpoint: func(step string) error {
		if armed && step == at {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return nil
	}})
	e.makeBase(t)
	e.commit(t, "shop", e.base, "data", "first")
	e.commit(t, "shop", e.base, "data", "second")
	armed = true
	do(t, c.do(e.ctx, e.Store, e.base))
}

func crashChangeCheck(t *testing.T) {
	c, at := changeOf(t)
	e, _ := boot(t, Options{})
	_, err := e.Reconcile(e.ctx, ReconcileOpts{})
	do(t, err)
	e.assertNoBuild(t)
	switch c.name + " " + at {
	case "promote checkpoint", "remove forget": // nobody was told; the current version had been changed
		e.assertGoldens(t, "shop:1*", "shop:2")
	case "remove checkpoint", "remove remove", "remove release":
		e.assertGoldens(t, "shop:1*")
	default:
		e.assertGoldens(t, "shop:1", "shop:2*")
	}
	all, err := e.Goldens(e.ctx)
	do(t, err)
	for _, g := range all {
		do(t, e.VerifyDigest(e.ctx, g.Ref()))
	}
	if len(all) == 1 {
		e.builds = 10
		e.commit(t, "shop", e.base, "data", "second")
	}
	do(t, c.do(e.ctx, e.Store, e.base))
	_, err = e.Reconcile(e.ctx, ReconcileOpts{})
	do(t, err)
	do(t, e.RemoveGolden(e.ctx, mustRef(t, "shop")))
	e.assertEmpty(t)
}

// TestPowerLoss restarts the machine: the databases that were in use are torn,
// goldens are there as they were confirmed, clones and builds are not, and what
// was on disk of them is gone.
func TestPowerLoss(t *testing.T) {
	needRoot(t)
	switch os.Getenv(envPhase) {
	case "fill":
		powerFill(t)
		return
	case "check":
		powerCheck(t)
		return
	}
	dir := t.TempDir()
	if err := phase(t, "TestPowerLoss", "fill", dir, envBoot+"=1"); err == nil {
		t.Fatal("survived")
	}
	for _, db := range []string{"io.containerd.metadata.v1.bolt/meta.db", "io.containerd.snapshotter.v1.overlayfs/metadata.db"} {
		do(t, os.Truncate(filepath.Join(dir, "root", db), 8192))
	}
	do(t, os.RemoveAll(filepath.Join(dir, "state")))
	if err := phase(t, "TestPowerLoss", "check", dir, envBoot+"=2"); err != nil {
		t.Error(err)
	}
}

func powerFill(t *testing.T) {
	e, _ := boot(t, Options{})
	e.makeBase(t)
	g := e.commit(t, "shop", e.base, "data", "golden")
	gone := e.commit(t, "gone", e.base, "data", "golden")
	_, err := e.Prepare(e.ctx, "cbefore", g) // this one is in the checkpoint
	do(t, err)
	c := containers.Container{ID: "cbefore", Labels: map[string]string{snapshot.LabelKind: snapshot.KindClone}, Runtime: containers.RuntimeInfo{Name: "x"}}
	c.Spec, err = typeurl.MarshalAny(&specs.Spec{})
	if err == nil {
		_, err = e.client.ContainerService().Create(namespaced(e.ctx), c)
	}
	do(t, err)
	_, err = e.Begin(e.ctx, "bopen", g.Snapshot)
	do(t, err)
	do(t, e.RemoveGolden(e.ctx, gone.Ref()))
	e.commit(t, "shop", g.Snapshot, "more", "golden")
	for _, id := range []string{"cafter1", "cafter2"} {
		_, err := e.Prepare(e.ctx, id, g)
		do(t, err)
	}
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

func powerCheck(t *testing.T) {
	e, report := boot(t, Options{})
	if !report.Restarted || !report.Restored || report.Taken.IsZero() || len(report.Damaged) > 0 {
		t.Errorf("report %+v", report)
	}
	r, err := e.Reconcile(e.ctx, ReconcileOpts{Void: report.Restarted})
	do(t, err)
	want := Report{Builds: []string{"bopen"}, Snapshots: []string{"cbefore", "ctrsnap/build/bopen"}, Containers: []string{"cbefore"}}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Error(diff)
	}
	e.assertGoldens(t, "shop:1", "shop:2*")
	for _, ref := range []string{"shop:1", "shop:2"} {
		do(t, e.VerifyDigest(e.ctx, mustRef(t, ref)))
	}
	ids, err := e.Clones(e.ctx)
	if err != nil || len(ids) > 0 {
		t.Errorf("clones %v, %v", ids, err)
	}
	g, err := e.Golden(e.ctx, snapshot.Ref{Name: "shop"})
	do(t, err)
	// New snapshots get numbers that lost ones had had: their files must not be there.
	for _, id := range []string{"c1", "c2", "c3"} {
		dir := e.prepare(t, id, g)
		if got := read(t, dir, "data") + read(t, dir, "more"); got != "goldengolden" {
			t.Errorf("clone %s reads %q", id, got)
		}
		do(t, mount.UnmountAll(dir, 0))
		do(t, e.Remove(context.Background(), id))
	}
	do(t, e.RemoveGolden(e.ctx, mustRef(t, "shop")))
	e.assertEmpty(t)
	left, err := os.ReadDir(filepath.Join(os.Getenv(envDir), "root/io.containerd.snapshotter.v1.overlayfs/snapshots"))
	if err != nil || len(left) > 0 {
		t.Errorf("layers left: %v, %v", left, err)
	}
}
