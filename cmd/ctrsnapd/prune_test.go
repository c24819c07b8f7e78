package main_test

import (
	"strings"
	"syscall"
	"testing"
)

// TestPrune removes versions that nobody uses, and none that has clones, waits in the pool, has others built on it, is
// current or is protected.
func TestPrune(t *testing.T) {
	t.Parallel()
	d := newShop(t, "[pool]\nsize = 1\nauto = false\n")
	more := d.file("more.sql", "CREATE TABLE more (i int);")
	build := func(want string) {
		t.Helper()
		if got := d.run("golden", "build", "shop", "--parent=shop:1", "--init", more); got != want {
			t.Fatalf("built %s, want %s", got, want)
		}
	}
	prune := func(want string, args ...string) {
		t.Helper()
		for _, dry := range [][]string{{"--dry-run"}, nil} {
			got := d.run(append(append([]string{"golden", "prune", "-q"}, args...), dry...)...)
			if got = strings.ReplaceAll(got, "\n", " "); got != want {
				t.Errorf("prune %s %s: %q, want %q", args, dry, got, want)
			}
		}
	}
	for _, ref := range []string{"shop:2", "shop:3", "shop:4"} {
		build(ref)
	}
	d.run("clone", "shop:2", "--name", "user")
	prune("", "--keep", "4")
	prune("", "--unused-for", "1h")
	prune("shop:3", "--keep", "1")
	if got := d.run("golden", "inspect", "shop:2", "--format", "{{.clones}} {{.used_at}}"); !strings.HasPrefix(got, "1 20") {
		t.Errorf("shop:2 is %q", got)
	}
	d.run("rm", "user")
	d.run("golden", "access", "shop", "--protect")
	d.restart(syscall.SIGTERM)
	prune("", "--keep", "1")
	d.run("golden", "access", "shop", "--protect=false")
	prune("shop:2", "--keep", "1")
	prune("", "--keep", "1")
	if got := d.run("golden", "ls", "shop", "-q"); got != "shop:1\nshop:4" {
		t.Errorf("left: %q", got)
	}
}

// TestCloneAwaitsRestart asks for a clone while no daemon is there, but will be soon.
func TestCloneAwaitsRestart(t *testing.T) {
	t.Parallel()
	d := newShop(t, "[pool]\nauto = false\n")
	d.stop(syscall.SIGTERM)
	ended := make(chan result)
	go func() { ended <- d.try(nil, "clone", "shop", "-o", "name") }()
	d.start()
	if r := <-ended; r.code != 0 || strings.Count(r.stderr, "wait for the daemon") > 1 {
		t.Errorf("clone: exit code %d\n%s", r.code, r.stderr)
	}
}
