package postgres

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime/engine/rootfs"
)

// TestRelCacheRestored removes caches as a server does that starts.
func TestRelCacheRestored(t *testing.T) {
	for _, c := range []struct {
		name, pidFile string
		want          bool
	}{
		{"starting", "1\n/data\n2\n5432\n/run\n*\n3\nstarting\n", true},
		{"cannot be read", "", false},
		{"serves already", "1\n/data\n2\n5432\n/run\n*\n3\nready   \n", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			global := filepath.Join(dir, "data", "global")
			must(t, os.MkdirAll(global, 0o700))
			must(t, os.WriteFile(filepath.Join(global, relCache), []byte("cache"), 0o600))
			must(t, os.Link(filepath.Join(global, relCache), filepath.Join(global, savedRelCache)))
			must(t, os.WriteFile(filepath.Join(dir, "data", pidFileName), []byte(c.pidFile), 0o600))
			root, err := rootfs.Open(dir)
			must(t, err)
			defer root.Close()
			w, err := newWatch()
			must(t, err)
			defer w.close()
			caches, err := w.addCaches(os.Getpid(), root, "/data", []string{"global"})
			must(t, err)
			defer caches.close()

			must(t, os.Remove(filepath.Join(global, relCache)))
			events, err := w.read()
			must(t, err)
			if len(events) != 1 || events[0].name != relCache {
				t.Fatalf("events %v", events)
			}
			must(t, caches.restore(events[0].dir))
			text, err := os.ReadFile(filepath.Join(global, relCache))
			if got := err == nil && string(text) == "cache"; got != c.want {
				t.Errorf("restored: %v (%v), want %v", got, err, c.want)
			}
			if err := caches.restore(events[0].dir + 1); err != nil {
				t.Errorf("what is not watched: %v", err)
			}
		})
	}
}

// TestRelCacheNotWithPreloads leaves servers alone that may have processes of
// others' making.
func TestRelCacheNotWithPreloads(t *testing.T) {
	if preloads(os.Getpid()) {
		t.Error("a process without the setting")
	}
	if !preloads(sleeper(t, "-c", "shared_preload_libraries=x")) {
		t.Error("a process with the setting")
	}
	if !preloads(1 << 30) {
		t.Error("a process that is gone")
	}
}

// sleeper returns a process that has more arguments than it knows.
func sleeper(t *testing.T, args ...string) int {
	t.Helper()
	p, err := os.StartProcess("/bin/sh", append([]string{"sh", "-c", "read x", "sh"}, args...), &os.ProcAttr{Files: pipeIn(t)})
	must(t, err)
	t.Cleanup(func() { _ = p.Signal(unix.SIGKILL); _, _ = p.Wait() })
	return p.Pid
}

func pipeIn(t *testing.T) []*os.File {
	t.Helper()
	r, w, err := os.Pipe()
	must(t, err)
	t.Cleanup(func() { r.Close(); w.Close() })
	return []*os.File{r}
}
