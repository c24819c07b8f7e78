package logfile_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime/logfile"
)

// TestTrim frees the older half of a log that is too large, and leaves the rest where it is.
func TestTrim(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	text := []byte(strings.Repeat("a line of a log\n", 50000))
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := logfile.Trim(path, 256<<10); err != nil {
		t.Skip(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	at, err := f.Seek(0, unix.SEEK_DATA)
	if err != nil || at < int64(len(text))/2 || at >= int64(len(text)) {
		t.Errorf("begins at %d of %d: %v", at, len(text), err)
	}
	if rest, err := io.ReadAll(f); err != nil || string(rest) != string(text[at:]) {
		t.Errorf("%d bytes are left: %v", len(rest), err)
	}
	if err := logfile.Trim(filepath.Join(t.TempDir(), "none"), 1); err != nil {
		t.Error(err)
	}
}

// TestWriter writes far more than a log may have: its last lines are there, and the disk has no more than the limit.
func TestWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	const limit, line = 1 << 20, "a line of a log\n"
	w := logfile.NewWriter(f, limit)
	most := int64(0)
	for range 1000 {
		if _, err := io.WriteString(w, strings.Repeat(line, 1024)); err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		most = max(most, st.Blocks*512)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if most > 2*limit {
		t.Errorf("the log took %d KiB, its limit is %d", most>>10, limit>>10)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if rest := bytes.TrimLeft(text, "\x00"); len(rest) < limit/4 || !bytes.HasSuffix(rest, []byte(line+line)) {
		t.Errorf("%d bytes are left", len(rest))
	}
}
