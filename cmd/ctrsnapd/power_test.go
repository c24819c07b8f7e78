package main_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

var (
	powerCuts = flag.Int("power.cuts", 2, "how often TestPowercut cuts the power")
	powerTime = flag.Duration("power.time", time.Hour, "after which TestPowercut ends, however often it has cut")
	powerSeed = flag.Uint64("power.seed", 1, "of what TestPowercut does at random")
	powerOut  = flag.String("power.out", "", "file that takes TestPowercut's figures")
)

// cutter copies what is on a daemon's disk at random instants, and looks at the copies.
type cutter struct {
	*load
	rand    *rand.Rand
	disk    string // a filesystem that can share extents
	cuts    int
	goldens int // that were checked
	checked int // of those, by a clone and pg_amcheck
	lost    []string
	damaged []string
}

// TestPowercut has a daemon under load lose its disk at random instants: what had not reached it is gone.
// Each golden that was confirmed by then is what was built, on the copy: its digest, and a
// clone of it that answers and that pg_amcheck finds sound.
func TestPowercut(t *testing.T) {
	t.Parallel()
	begun := time.Now()
	disk := sharedDisk(t)
	d := prepareDaemon(t, disk, nil, "[pool]\nauto = false\n[storage]\nsize = \"2GiB\"\n")
	t.Cleanup(d.tearDown)
	// On a disk that shares extents the daemon would make no image of its own.
	image := filepath.Join(d.work, "root/storage.xfs")
	run(t, "mkdir", filepath.Dir(image))
	run(t, "truncate", "-s", "2G", image)
	run(t, "mkfs.xfs", "-q", "-m", "reflink=1,rmapbt=0", "-s", "size=4096", image)
	d.start()
	k := &cutter{load: newLoad(t, d, *powerSeed), rand: rand.New(rand.NewPCG(*powerSeed, 2000)), disk: disk} //nolint:gosec // to be repeated
	d.file("schema.sql", schema)
	d.run("golden", "build", "shop", fromHost(), "--init", "schema.sql")
	shop, err := client.Do(t.Context(), d.client, api.GetGolden, api.GoldenArgs{Ref: "shop:1"})
	if err != nil {
		t.Fatal(err)
	}
	k.believe(shop)
	k.start(t.Context())
	for k.cuts < *powerCuts && time.Since(begun) < *powerTime && !t.Failed() {
		k.cut()
	}
	k.end()
	line, err := json.Marshal(map[string]any{
		"target": "powercut", "seed": k.seed, "cuts": k.cuts, "goldens_checked": k.goldens, "clones_checked": k.checked,
		"goldens_lost": len(k.lost), "goldens_damaged": len(k.damaged), "confirmed": k.done, "seconds": int(time.Since(begun).Seconds()),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", line)
	if *powerOut != "" {
		if err := os.WriteFile(*powerOut, append(line, '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// sharedDisk mounts an XFS filesystem for the test.
func sharedDisk(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir, err := os.MkdirTemp("/var/tmp", "ctrsnap-disk-") //nolint:usetesting // on a disk
	if err != nil {
		t.Fatal(err)
	}
	image, at := filepath.Join(dir, "image"), filepath.Join(dir, "at")
	t.Cleanup(func() { _ = exec.Command("umount", "-l", at).Run(); _ = os.RemoveAll(dir) })
	run(t, "truncate", "-s", "16G", image)
	run(t, "mkfs.xfs", "-q", "-m", "reflink=1,rmapbt=0", "-s", "size=4096", image)
	run(t, "mkdir", at)
	run(t, "mount", "-o", "loop", image, at)
	return at
}

// run runs a program of the host.
func run(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", args, err, out)
	}
}

// cut copies the image while the callers work, then looks at the copy while they wait.
func (k *cutter) cut() {
	k.t.Helper()
	<-time.After(time.Duration(k.rand.IntN(3000)) * time.Millisecond)
	other := prepareDaemon(k.t, k.disk, nil, "[pool]\nauto = false\n[storage]\nsize = \"2GiB\"\n")
	defer other.tearDown()
	before := k.believed()
	k.copyImage(other)
	after := k.believed()
	maps.DeleteFunc(before, func(ref string, _ api.Golden) bool { _, ok := after[ref]; return !ok })
	k.cuts++
	k.gate.Lock()
	defer k.gate.Unlock()
	other.start()
	k.look(other, before)
	for _, what := range [][]string{k.lost, k.damaged} {
		for _, s := range what {
			k.t.Errorf("cut %d: %s", k.cuts, s)
		}
	}
}

// copyImage gives another daemon what is on the disk now, as the boot after finds it.
func (k *cutter) copyImage(other *daemon) {
	k.t.Helper()
	root := filepath.Join(other.work, "root")
	storage, image := filepath.Join(root, "storage"), filepath.Join(root, "storage.xfs")
	if err := os.MkdirAll(storage, 0o711); err != nil {
		k.t.Fatal(err)
	}
	from, err := os.Open(filepath.Join(k.d.work, "root/storage.xfs"))
	if err != nil {
		k.t.Fatal(err)
	}
	defer from.Close()
	to, err := os.Create(image)
	if err != nil {
		k.t.Fatal(err)
	}
	defer to.Close()
	if err := unix.IoctlFileClone(int(to.Fd()), int(from.Fd())); err != nil {
		k.t.Fatal(err)
	}
	// The original is mounted on this host, too, and it is the same boot.
	run(k.t, "mount", "-o", "loop,nouuid,discard", image, storage)
	if err := os.WriteFile(filepath.Join(storage, "checkpoint/boot"), []byte("before\n"), 0o600); err != nil {
		k.t.Fatal(err)
	}
}

// look checks the goldens that were confirmed when the power was cut.
func (k *cutter) look(d *daemon, want map[string]api.Golden) {
	k.t.Helper()
	ctx := k.t.Context()
	if clones, err := client.Do(ctx, d.client, api.ListClones, api.ListClonesArgs{}); err != nil || len(clones) > 0 {
		k.t.Errorf("%d clones after a power loss, %v", len(clones), err)
	}
	for _, ref := range slices.Sorted(maps.Keys(want)) {
		k.goldens++
		got, err := client.Do(ctx, d.client, api.VerifyGolden, api.GoldenArgs{Ref: ref})
		if err != nil || got.Digest != want[ref].Digest {
			k.lost = append(k.lost, fmt.Sprintf("golden %s: %v, %s, want %s", ref, err, got.Digest, want[ref].Digest))
			continue
		}
		if err := k.amcheck(d, ref); err != nil {
			k.damaged = append(k.damaged, fmt.Sprintf("golden %s: %v", ref, err))
			continue
		}
		k.checked++
	}
}

// amcheck has a clone of a golden answer, and PostgreSQL check it.
func (k *cutter) amcheck(d *daemon, ref string) error {
	resp, err := client.Do(k.t.Context(), d.client, api.CreateClones, api.CreateArgs{Body: api.CloneRequest{Golden: ref}})
	if err != nil {
		return err
	}
	c := resp.Clones[0]
	if n, err := tryQuery(c.URL, "SELECT count(*) FROM users"); err != nil || n != "1000" {
		return fmt.Errorf("its clone has %s rows: %w", n, err)
	}
	programs, _ := filepath.Glob("/usr/lib/postgresql/*/bin/pg_amcheck")
	if prefix := os.Getenv("CTRSNAP_TEST_POSTGRES"); prefix != "" {
		more, _ := filepath.Glob(filepath.Join(prefix, "usr/lib/postgresql/*/bin/pg_amcheck"))
		programs = append(programs, more...)
	}
	if len(programs) == 0 {
		return fmt.Errorf("no pg_amcheck on this host")
	}
	cmd := exec.CommandContext(k.t.Context(), programs[0], "--install-missing", "--heapallindexed", c.Database)
	cmd.Env = append(os.Environ(), "PGHOST="+c.Host, fmt.Sprintf("PGPORT=%d", c.Port), "PGUSER="+c.User, "PGPASSWORD="+c.Password)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("pg_amcheck: %w: %s", err, out)
	}
	return client.Tell(k.t.Context(), d.client, api.RemoveClone, api.RemoveArgs{ID: c.ID})
}
