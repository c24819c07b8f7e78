package described

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime/engine/rootfs"
	"github.com/ctrsnap/ctrsnap/runtime/engine/source"
)

// finish makes a golden of the database.
func (b *build) finish(ctx context.Context) error {
	if err := b.login(ctx); err != nil { // scripts may have changed it
		return err
	}
	if err := b.steps(ctx, b.e.d.Build.Finish); err != nil {
		return fmt.Errorf("finish: %w", err)
	}
	b.wb.Step("shut down")
	if err := b.stop(ctx); err != nil {
		return err
	}
	for _, s := range b.e.d.Build.Verify {
		if err := b.run(ctx, b.st.fields(), s); err != nil {
			return fmt.Errorf("verify shutdown: %w: %w", err, errdefs.ErrDataLoss)
		}
	}
	return rootfs.Edit(ctx, b.wb.Root, b.clean)
}

// clean checks what a clean shutdown leaves, and removes what the build needed.
func (b *build) clean(r *rootfs.Root) error {
	f := b.st.fields()
	for _, list := range []struct {
		names []string
		want  bool
	}{{b.e.d.Server.Absent, false}, {b.e.d.Server.Present, true}} {
		names, err := f.all(list.names)
		if err != nil {
			return err
		}
		for _, name := range names {
			file, err := r.Handle(name)
			if err == nil {
				file.Close()
			}
			if (err == nil) != list.want {
				return fmt.Errorf("check shutdown: %s: there %t, want %t: %w", name, err == nil, list.want, errdefs.ErrDataLoss)
			}
		}
	}
	if err := source.UnlinkInit(r); err != nil {
		return err
	}
	dir, err := r.Dir(filepath.Dir(buildDir))
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	return dir.RemoveAll(filepath.Base(buildDir))
}
