package catalog

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime/engine/redis"
)

func example(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "described", "examples", name+".toml"))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func open(t *testing.T, dir string) *Catalog {
	t.Helper()
	c, damaged, err := Open(dir, redis.New())
	if damaged != nil || err != nil {
		t.Fatal(damaged, err)
	}
	return c
}

// What was added is there after a restart, as it was said last; what was removed is not.
func TestAddAndRemove(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "engines")
	c := open(t, dir)
	text := example(t, "etcd")
	first, err := c.Add(text)
	if err != nil {
		t.Fatal(err)
	}
	second, err := c.Add([]byte(string(text) + "\n# another\n"))
	if err != nil || second.Engine.Digest() == first.Engine.Digest() {
		t.Fatal(err, second.Engine.Digest())
	}
	c = open(t, dir)
	if e, ok := c.Added("etcd"); !ok || e.Text != second.Text || e.Engine.Digest() != second.Engine.Digest() {
		t.Errorf("after a restart: %t %q", ok, e.Text)
	}
	if got := c.Names(); !slices.Equal(got, []string{"etcd", "redis"}) {
		t.Errorf("names %v", got)
	}
	if err := c.Remove("etcd"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*Catalog{c, open(t, dir)} {
		if _, err := c.Engine("etcd"); !errdefs.IsNotFound(err) {
			t.Errorf("after it was removed: %v", err)
		}
	}
	if err := c.Remove("etcd"); !errdefs.IsNotFound(err) {
		t.Errorf("removed twice: %v", err)
	}
}

func TestBuiltIn(t *testing.T) {
	c := open(t, t.TempDir())
	text := strings.Replace(string(example(t, "etcd")), `name = "etcd"`, `name = "redis"`, 1)
	if _, err := c.Add([]byte(text)); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a built-in name: %v", err)
	}
	if err := c.Remove("redis"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a built-in engine: %v", err)
	}
}

// One file that is damaged, or not what its name says, keeps nobody from the others.
func TestDamaged(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"etcd": string(example(t, "etcd")), "nats": "schema = [", "other": string(example(t, "etcd"))} {
		if err := os.WriteFile(filepath.Join(dir, name+".toml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, damaged, err := Open(dir)
	if err != nil || damaged == nil || !strings.Contains(damaged.Error(), "nats.toml") || !strings.Contains(damaged.Error(), "other.toml") {
		t.Errorf("damaged %v, error %v", damaged, err)
	}
	if got := c.Names(); !slices.Equal(got, []string{"etcd"}) {
		t.Errorf("names %v", got)
	}
}
