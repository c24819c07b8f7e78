package postgres

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime/engine/rootfs"
)

// TestHostileFiles puts what is no file in place of each file, and of each directory, that the daemon opens in a root
// filesystem: it says at once which. One that blocked would hang the test; what a link leads to stays as it is.
func TestHostileFiles(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	must(t, os.WriteFile(outside, []byte("of the host"), 0o600))
	plants := map[string]func(path string) error{
		"FIFO":          func(path string) error { return unix.Mkfifo(path, 0o666) },
		"symbolic link": func(path string) error { return os.Symlink(outside, path) },
		"block device":  func(path string) error { return unix.Mknod(path, unix.S_IFBLK|0o666, int(unix.Mkdev(7, 3))) },
	}
	files := map[string]func(r *rootfs.Root, data *os.Root) error{
		hbaFile:                   func(r *rootfs.Root, _ *os.Root) error { return writeFile(r, hbaFile, rules, 0o644) },
		"/data/PG_VERSION":        func(_ *rootfs.Root, data *os.Root) error { _, err := checkDir(data); return err },
		"/data/global/pg_control": func(_ *rootfs.Root, data *os.Root) error { _, err := readControl(data); return err },
		"/data/log":               func(_ *rootfs.Root, data *os.Root) error { return removeLeftovers(data) },
		"/data/pg_wal":            func(_ *rootfs.Root, data *os.Root) error { return removeWAL(data, 0) },
		"/data/postgresql.conf": func(_ *rootfs.Root, data *os.Root) error {
			return (&build{}).writeData(data, "postgresql.conf", minimalConf)
		},
	}
	for kind, plant := range plants {
		if kind == "block device" && os.Getuid() != 0 {
			continue
		}
		for name, open := range files {
			dir := t.TempDir()
			must(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755))
			must(t, os.MkdirAll(filepath.Join(dir, "data"), 0o755))
			must(t, plant(filepath.Join(dir, name)))
			r, err := rootfs.Open(dir)
			must(t, err)
			data, err := r.Dir("/data")
			must(t, err)
			err = open(r, data)
			if err == nil || !strings.Contains(err.Error(), filepath.Base(name)) {
				t.Errorf("%s at %s: %v", kind, name, err)
			}
			_ = data.Close()
			r.Close()
		}
	}
	if text, err := os.ReadFile(outside); err != nil || string(text) != "of the host" {
		t.Errorf("file of the host: %q, %v", text, err)
	}
}

// TestHostileSize bounds what is read of a file that has no end.
func TestHostileSize(t *testing.T) {
	root, err := os.OpenRoot(t.TempDir())
	must(t, err)
	defer func() { _ = root.Close() }()
	f, err := root.Create("PG_VERSION")
	must(t, err)
	must(t, f.Truncate(1<<40))
	must(t, f.Close())
	if _, err := checkDir(root); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "64 bytes") {
		t.Errorf("PG_VERSION of a terabyte: %v", err)
	}
}

// TestSchemaIsBounded: what is kept of a dump's text is bounded, however long it goes on.
func TestSchemaIsBounded(t *testing.T) {
	for name, line := range map[string]string{
		"roles":      "GRANT SELECT ON TABLE t TO r%d;\n",
		"statements": "ALTER DATABASE d SET x.y%d = 'v';\n",
	} {
		r, w := io.Pipe()
		go func() {
			for i := 0; ; i++ {
				if _, err := fmt.Fprintf(w, line, i); err != nil {
					return
				}
			}
		}()
		_, err := parseSchema(r)
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
		must(t, r.Close())
	}
}
