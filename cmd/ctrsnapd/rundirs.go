package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/moby/sys/mountinfo"

	"github.com/ctrsnap/ctrsnap/snapshot/containerd"
)

// Filesystems of the state directory in which clones and builds make their sockets. A server
// that is told to writes more there (COPY … TO), which is to fill neither /run nor the disk
// of the host: all clones together, and all builds, have no more than this. See tmpfs(5).
const runDirOptions = "mode=0711,size=128m,nr_inodes=128k"

func (d *daemon) runDirs() []string { return []string{d.state("clones"), d.state("builds")} }

// openRunDirs mounts them, but over none in which something is: an earlier daemon, that had
// it elsewhere, has left clones there.
func (d *daemon) openRunDirs() error {
	for _, dir := range d.runDirs() {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("make run directory: %w", err)
		}
		mounted, err := mountinfo.Mounted(dir)
		if err != nil {
			return fmt.Errorf("look whether %s is mounted: %w", dir, err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		if mounted || len(entries) > 0 {
			continue
		}
		if err := containerd.MountMemory(dir, runDirOptions); err != nil {
			return err
		}
	}
	return nil
}

// closeRunDirs unmounts them, when clones and builds are gone.
func (d *daemon) closeRunDirs() (err error) {
	for _, dir := range d.runDirs() {
		err = errors.Join(err, containerd.UnmountState(dir))
	}
	return err
}
