package checkpoint

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
)

// Names in the directory of a checkpoint. The order of files is that of writing.
const (
	fileManifest  = "manifest.json"
	fileSnapshots = "snapshots.db"
	fileMetadata  = "metadata.db"
	schema        = 1
)

var files = []string{fileSnapshots, fileMetadata}

// manifest says what a whole checkpoint consists of. It is written last.
type manifest struct {
	Schema  int             `json:"schema"`
	BootID  string          `json:"boot_id"`
	Created time.Time       `json:"created"`
	Files   map[string]file `json:"files"`
}

type file struct {
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
}

// checksum is a SHA-256 in hexadecimal.
type checksum struct{ hash.Hash }

func newChecksum() checksum { return checksum{sha256.New()} }

func (c checksum) hex() string { return hex.EncodeToString(c.Sum(nil)) }

// write puts the manifest into dir. Its own checksum goes before it.
func (m manifest) write(dir string) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(b)
	_, err = writeFile(filepath.Join(dir, fileManifest),
		bytes.NewBufferString(hex.EncodeToString(sum[:])+"\n"+string(b)+"\n"))
	return err
}

// read returns the manifest of the checkpoint in dir if all of it is as it was
// written. The error is of class DataLoss if not.
func read(dir string) (manifest, error) {
	var m manifest
	b, err := os.ReadFile(filepath.Join(dir, fileManifest))
	if err != nil {
		return m, damaged(dir, err)
	}
	want, b, _ := bytes.Cut(b, []byte("\n"))
	b = bytes.TrimSuffix(b, []byte("\n"))
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != string(want) {
		return m, damaged(dir, fmt.Errorf("checksum of %s does not match", fileManifest))
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, damaged(dir, err)
	}
	if m.Schema != schema {
		return m, fmt.Errorf("checkpoint %s has schema %d, want %d: %w", dir, m.Schema, schema, errdefs.ErrNotImplemented)
	}
	for _, name := range files {
		if err := m.Files[name].check(filepath.Join(dir, name)); err != nil {
			return m, damaged(dir, err)
		}
	}
	return m, nil
}

// check reads the file and compares.
func (f file) check(name string) error {
	r, err := os.Open(name)
	if err != nil {
		return err
	}
	defer r.Close()
	sum := newChecksum()
	n, err := io.Copy(sum, r)
	if err != nil {
		return err
	}
	if n != f.Size || sum.hex() != f.SHA256 {
		return fmt.Errorf("checksum of %s does not match", name)
	}
	return nil
}

func damaged(dir string, err error) error {
	return fmt.Errorf("checkpoint %s is damaged: %w: %w", dir, errdefs.ErrDataLoss, err)
}
