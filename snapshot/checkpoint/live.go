package checkpoint

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// openTimeout bounds the wait for a database that another process has open.
const openTimeout = 5 * time.Second

// checkLive says which of the live databases cannot be read. Nothing is changed by it:
// containerd would begin anew with one that is empty, and have all layers removed
// that are not in it; and it would panic at one with a damaged page.
func (o Options) checkLive() error {
	if o.External {
		return nil
	}
	for _, name := range files {
		live := o.live(name)
		err := readable(live)
		if err == nil || errors.Is(err, bolterrors.ErrTimeout) {
			continue // who has it open says so himself
		}
		return snapshot.WithHint(
			fmt.Errorf("metadata %s is damaged: %w: %w", live, err, errdefs.ErrDataLoss),
			fmt.Sprintf("put back the file, or remove %s to start with the goldens of the last checkpoint: that ends all clones", filepath.Join(o.Dir, fileBoot)))
	}
	return nil
}

// readable reads all of a database, whose pages may be anything.
func readable(path string) (err error) {
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	if fi.Size() == 0 {
		return errors.New("it is empty")
	}
	// Pages beyond the end of a file that was cut off are a fault of memory.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("read pages: %v", r)
		}
	}()
	db, err := bolt.Open(path, 0, &bolt.Options{ReadOnly: true, Timeout: openTimeout})
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }() // it was only read
	tx, err := db.Begin(false)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // it has only read
	return tx.ForEach(func(_ []byte, b *bolt.Bucket) error { return walk(b) })
}

// walk visits all keys of a bucket and those below.
func walk(b *bolt.Bucket) error {
	return b.ForEach(func(k, v []byte) error {
		if v != nil {
			return nil
		}
		return walk(b.Bucket(k))
	})
}
