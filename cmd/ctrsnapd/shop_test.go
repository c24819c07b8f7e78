package main_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// shop is the storage of a daemon that has the golden shop:1, made of schema, and nothing else. The first test that
// wants it builds it: each build costs seconds, and few tests are about it.
var shop struct {
	once sync.Once
	work string // "" if it could not be made
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shop.work != "" {
		_ = os.RemoveAll(shop.work)
	}
	os.Exit(code)
}

// newShop is newDaemon with the golden shop:1 and the file schema.sql, of which it was made.
func newShop(t testing.TB, configuration string, args ...string) *daemon {
	t.Helper()
	return newShopIn(t, nil, configuration, args...)
}

// newShopIn does so in another network namespace.
func newShopIn(t testing.TB, enter []string, configuration string, args ...string) *daemon {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	d := prepareDaemon(t, "/var/tmp", enter, configuration, args...)
	t.Cleanup(d.tearDown)
	copied := d.copyShop()
	d.start()
	if !copied {
		d.buildShop()
	}
	return d
}

// buildShop builds it here, in a test of what that depends on.
func (d *daemon) buildShop() {
	d.t.Helper()
	d.file("schema.sql", schema)
	if got := d.run("golden", "build", "shop", fromHost(), "--init", "schema.sql"); got != "shop:1" {
		d.t.Fatalf("golden build printed %q", got)
	}
}

// copyShop gives the daemon, which does not run yet, a copy of the storage with shop:1. False says that it is to build
// it itself: its layers are elsewhere, or are to have less room.
func (d *daemon) copyShop() bool {
	d.t.Helper()
	d.file("schema.sql", schema)
	if config := string(mustRead(d.t, d.config())); len(d.args) > 0 || strings.Contains(config, "[storage]\nsize") {
		return false
	}
	shop.once.Do(func() { shop.work = makeShop(d.t) })
	if shop.work == "" {
		d.t.Fatal("there is no golden: see the test that was first to want it")
	}
	from, to := filepath.Join(shop.work, "root/storage.xfs"), filepath.Join(d.work, "root/storage.xfs")
	if _, err := os.Stat(from); err != nil { // the filesystem of all of them shares extents: they have no image
		return false
	}
	do(d.t, os.MkdirAll(filepath.Dir(to), 0o711))
	run(d.t, "cp", "--sparse=always", "--preserve=mode", from, to)
	run(d.t, "xfs_admin", "-U", "generate", to) // two filesystems of one name are not mounted beside each other
	return true
}

// makeShop builds the golden, and returns where its daemon was.
func makeShop(t testing.TB) (work string) {
	t.Helper()
	d := prepareDaemon(t, "/var/tmp", nil, "[pool]\nauto = false\n")
	defer func() {
		if work == "" {
			d.tearDown()
		}
	}()
	d.start()
	d.buildShop()
	d.tearDownOnly()
	d.checkLeaks()
	// A mount namespace that another test made meanwhile may hold the filesystem a little longer: a copy of it would
	// have a log that is not clean.
	image := filepath.Join(d.work, "root/storage.xfs")
	waitFor(t, "the end of the mounts of "+image, func() bool {
		out, err := exec.Command("losetup", "-j", image).Output()
		return err == nil && len(out) == 0
	})
	return d.work
}
