package launch

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestSourceIsLink binds nothing that is reached by a link, be it the last part of its path or one before.
func TestSourceIsLink(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	for path, to := range map[string]string{"last": "/etc", "first": "/"} {
		if err := os.Symlink(to, filepath.Join(dir, path)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "plain"), 0o755); err != nil {
		t.Fatal(err)
	}
	for source, want := range map[string]error{"plain": nil, "last": unix.ELOOP, "first/etc": unix.ELOOP, "none": unix.ENOENT} {
		s := testSpec("true")
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Type: "bind", Source: filepath.Join(dir, source), Options: []string{"bind", "rw"}})
		p, _, err := w.launcher.Create(w.config(t, s))
		if !errors.Is(err, want) {
			t.Errorf("source %s: %v, want %v", source, err, want)
		}
		if err != nil {
			continue
		}
		if err := p.Start(); err != nil {
			t.Error(err)
		}
		if _, err := p.Wait(); err != nil {
			t.Error(err)
		}
		p.Close()
	}
}
