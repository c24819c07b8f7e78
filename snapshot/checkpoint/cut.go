package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/snapshots/storage"
	bolt "go.etcd.io/bbolt"
)

// cut is both databases at one instant, as read transactions.
type cut struct {
	metadata  *bolt.Tx
	snapshots storage.Transactor
}

// errCut rolls back the write transaction of cut, in which nothing is written.
var errCut = errors.New("cut")

// cut begins the transactions while it alone may write containerd's metadata.
// containerd commits a snapshot in the snapshotter within the transaction that
// records it, and removes one there after the transaction that forgets it: so
// every snapshot in the one copy is in the other. What is in the snapshotter's
// alone is garbage that containerd collects.
func (c *Checkpoint) cut(ctx context.Context) (*cut, error) {
	var x cut
	err := c.metadata.Update(func(tx *bolt.Tx) (err error) {
		if _, x.snapshots, err = c.snapshots.MetaStore().TransactionContext(ctx, false); err != nil {
			return err
		}
		if x.metadata, err = tx.DB().Begin(false); err != nil {
			return err
		}
		return errCut
	})
	if !errors.Is(err, errCut) {
		x.close()
		return nil, fmt.Errorf("read metadata: %w", err)
	}
	return &x, nil
}

// of returns the database that is stored in a checkpoint as name.
func (x *cut) of(name string) io.WriterTo {
	if name == fileSnapshots {
		return x.snapshots.(io.WriterTo) // a bolt transaction
	}
	return x.metadata
}

// close ends the transactions. Rolling back what was only read cannot fail.
func (x *cut) close() {
	if x.snapshots != nil {
		_ = x.snapshots.Rollback()
	}
	if x.metadata != nil {
		_ = x.metadata.Rollback()
	}
}
