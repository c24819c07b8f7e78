package host

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/foreign"
)

// Find lists what the root filesystem that tree describes consists of. It
// reads metadata and ELF headers only. What is missing is NotFound, with a
// hint; what may not be copied is PermissionDenied. A plugin (a shared object
// within a directory of tree) that lacks a library of its own is logged and
// stays in the plan.
func Find(ctx context.Context, tree snapshot.HostTree, log *slog.Logger) (plan *Plan, err error) {
	err = foreign.As(tree.Reader.UID, tree.Reader.Groups, func() error {
		plan, err = search(ctx, tree, log)
		return err
	})
	return plan, err
}

func search(ctx context.Context, tree snapshot.HostTree, log *slog.Logger) (*Plan, error) {
	f := &finder{
		prefix:   tree.Prefix,
		public:   map[string]error{},
		entries:  map[string]entry{},
		merged:   mergedDirs(),
		queued:   map[string]*object{},
		parsed:   map[string]*object{},
		resolved: map[string]string{},
		opened:   map[elf.Machine]bool{},
		log:      log.With("base", tree.Name),
	}
	f.loader = newLoader(tree.LibraryPath)
	for _, hf := range tree.Files {
		if err := f.add(ctx, hf); err != nil {
			return nil, fmt.Errorf("find %s: %w", hf.Source, err)
		}
	}
	if err := f.resolve(ctx); err != nil {
		return nil, fmt.Errorf("find what %s needs: %w", tree.Name, err)
	}
	f.skeleton(tree)
	return newPlan(tree, f.entries), nil
}

// finder collects the entries of one plan.
type finder struct {
	prefix   string           // see HostTree
	public   map[string]error // what is said of directories outside of it
	entries  map[string]entry
	bytes    int64
	open     []string // directories whose trees are being added, one within the other
	merged   map[string]string
	loader   *loader
	parsed   map[string]*object   // by source
	resolved map[string]string    // where links lead
	opened   map[elf.Machine]bool // whose dlopened libraries were added
	// Programs come before plugins, so that a library that both need is
	// looked at on behalf of the program.
	programs, plugins []*object
	queued            map[string]*object // by source, the last of each
	log               *slog.Logger
}

// add adds one file or directory of a HostTree.
func (f *finder) add(ctx context.Context, hf snapshot.HostFile) error {
	source, target := filepath.Clean(hf.Source), path.Clean(hf.Target)
	if hf.Target == "" {
		target = source
	}
	if !filepath.IsAbs(source) || !path.IsAbs(target) {
		return fmt.Errorf("%s to %s is not absolute: %w", source, target, errdefs.ErrInvalidArgument)
	}
	resolved, err := filepath.EvalSymlinks(source)
	if errors.Is(err, fs.ErrNotExist) && hf.Optional {
		return nil
	}
	if err != nil {
		return class(err)
	}
	if err := f.allowed(resolved); err != nil {
		if hf.Optional {
			f.log.Warn("file left out", "file", source, "err", err)
			return nil
		}
		return err
	}
	return f.addAny(ctx, resolved, target, true)
}

// addAny adds what is at source, which is no symlink. Explicit says that it
// was asked for by name: it may not be left out.
func (f *finder) addAny(ctx context.Context, source, target string, explicit bool) error {
	info, id, err := stat(source)
	if err != nil {
		return class(err)
	}
	switch {
	case info.IsDir():
		return f.addTree(ctx, source, target)
	case info.Mode().IsRegular():
		return f.addRegular(source, target, info.Mode(), id, explicit)
	case explicit:
		return fmt.Errorf("%s is neither a file nor a directory: %w", source, errdefs.ErrInvalidArgument)
	}
	return nil
}

// addRegular adds a regular file. Owner becomes root; set-user-ID and
// set-group-ID are dropped.
func (f *finder) addRegular(source, target string, mode fs.FileMode, id identity, explicit bool) error {
	if mode.Perm()&0o004 == 0 {
		if explicit {
			return notPublic(source)
		}
		f.log.Warn("file left out: not readable by all users", "file", source)
		return nil
	}
	e := entry{target: target, mode: mode.Perm(), source: source, id: id}
	added, err := f.put(e)
	if err != nil || !added {
		return err
	}
	// The dynamic loader maps libraries that are not executable; the kernel
	// and the shell run nothing that is not.
	if mode.Perm()&0o111 != 0 || strings.Contains(path.Base(source), ".so") {
		return f.inspect(source, f.normal(target), explicit)
	}
	return nil
}

// put adds an entry unless its target is taken, and says whether it did.
func (f *finder) put(e entry) (bool, error) {
	e.target = f.normal(e.target)
	if _, taken := f.entries[e.target]; taken {
		return false, nil
	}
	f.entries[e.target] = e
	if e.mode.IsRegular() {
		f.bytes += e.id.size
	}
	if len(f.entries) > maxEntries || f.bytes > maxBytes {
		return false, fmt.Errorf("more than %d files or %d bytes at %s: %w",
			maxEntries, int64(maxBytes), e.source, errdefs.ErrInvalidArgument)
	}
	return true, nil
}

// class gives an error of the filesystem its class.
func class(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %w", err, errdefs.ErrPermissionDenied)
	}
	return err
}
