package checkpoint

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// fileBoot, in Options.Dir, is the boot id that the live databases belong to.
const fileBoot = "boot"

// Report says what Restore has done.
type Report struct {
	// Restarted says that the machine was restarted since containerd last ran:
	// no clone or build of before is alive.
	Restarted bool
	// Restored says that the live databases are now those of a checkpoint taken
	// at Taken. Layers on disk may be newer: start containerd with Recover.
	Restored bool
	Taken    time.Time
	// Removed says that live databases were there, but no checkpoint to take
	// their place: no golden was ever recorded.
	Removed bool
	// Damaged are newer checkpoints that could not be used.
	Damaged []string
}

// Restore prepares the databases for a start of containerd. In the boot that
// they were written in they are right as they are, or the error names the one that
// is not and is of class DataLoss. In any other they may be
// torn, and are replaced by the last checkpoint. If there are checkpoints but
// none is whole, nothing is touched and the error is of class DataLoss.
func Restore(o Options) (Report, error) {
	o = o.complete()
	r, err := o.restore()
	if err != nil {
		return r, fmt.Errorf("restore metadata from %s: %w", o.Dir, err)
	}
	return r, nil
}

func (o Options) restore() (r Report, err error) {
	boot, err := o.BootID()
	if err != nil {
		return r, err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return r, err
	}
	last, err := os.ReadFile(filepath.Join(o.Dir, fileBoot))
	if err != nil && !os.IsNotExist(err) {
		return r, err
	}
	if strings.TrimSpace(string(last)) == boot {
		return r, o.checkLive()
	}
	r.Restarted = true
	return r, o.replace(&r)
}

// Confirm records that the live databases belong to this boot. It is to be called when what
// Restore has found restarted is reconciled with them: a crash before that begins
// anew, from the same checkpoint or a later one.
func Confirm(o Options) error {
	o = o.complete()
	boot, err := o.BootID()
	if err == nil {
		err = o.step("boot", func() error { return o.writeBoot(boot) })
	}
	if err != nil {
		return fmt.Errorf("confirm metadata of %s: %w", o.Dir, err)
	}
	return nil
}

// replace puts the newest whole checkpoint in place of the live databases.
func (o Options) replace(r *Report) error {
	numbers, err := list(o.Dir)
	if err != nil {
		return err
	}
	var reasons []error
	for _, n := range numbers {
		dir := path(o.Dir, n)
		m, err := read(dir)
		if err == nil {
			r.Restored, r.Taken = true, m.Created
			return o.install(dir)
		}
		r.Damaged, reasons = append(r.Damaged, dir), append(reasons, err)
	}
	if len(numbers) > 0 {
		return snapshot.WithHint(errors.Join(reasons...), fmt.Sprintf(
			"no checkpoint is whole; move %s away to start without goldens", o.Dir))
	}
	return o.remove(r)
}

// install copies the databases of a checkpoint to where containerd opens them.
func (o Options) install(dir string) error {
	for _, name := range files {
		live := o.live(name)
		if err := o.step("install "+name, func() error { return installFile(filepath.Join(dir, name), live) }); err != nil {
			return err
		}
	}
	return nil
}

// installFile replaces a file by a synced copy of another, atomically.
func installFile(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o711); err != nil {
		return err
	}
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	tmp := to + ".restore"
	if err := os.Remove(tmp); err != nil && !os.IsNotExist(err) {
		return err
	}
	if _, err := writeFile(tmp, src); err != nil {
		return err
	}
	if err := os.Rename(tmp, to); err != nil {
		return err
	}
	return syncDir(filepath.Dir(to))
}

// remove deletes live databases that nothing vouches for.
func (o Options) remove(r *Report) error {
	for _, name := range files {
		err := os.Remove(o.live(name))
		if err == nil {
			r.Removed = true
		} else if !os.IsNotExist(err) {
			return err
		}
	}
	return nil
}

// writeBoot records, durably, which boot the live databases belong to.
func (o Options) writeBoot(boot string) error {
	if boot == "" {
		return fmt.Errorf("boot id is empty: %w", errdefs.ErrFailedPrecondition)
	}
	tmp := filepath.Join(o.Dir, fileBoot+".new")
	if err := os.Remove(tmp); err != nil && !os.IsNotExist(err) {
		return err
	}
	if _, err := writeFile(tmp, strings.NewReader(boot+"\n")); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(o.Dir, fileBoot)); err != nil {
		return err
	}
	return syncDir(o.Dir)
}
