package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// treeWriter writes directories to a tar stream. What is left out and followed
// is as the engine says; its zero value leaves all as it is.
type treeWriter struct {
	*tar.Writer
	engine api.Engine
}

// tarDir returns a tar stream of all below dir, with modes and owners, made
// while it is read. Sockets and fifos are left out, and so is the file with the number of
// the server's process: it will not exist where the copy is used.
func tarDir(dir string, e api.Engine) io.ReadCloser {
	r, w := io.Pipe()
	go func() {
		tw := treeWriter{tar.NewWriter(w), e}
		err := addLinkedDir(tw, dir, "")
		if err == nil {
			err = tw.Close()
		}
		w.CloseWithError(err)
	}()
	return r
}

// tarInit returns a tar stream of all below a directory with scripts, or of one script. Links that lead out of the directory are
// followed if they lead to a file; what lies in .git, and what is neither file, directory nor link, is left out.
func tarInit(path string) io.ReadCloser {
	r, w := io.Pipe()
	go func() {
		tw := treeWriter{tar.NewWriter(w), api.Engine{}}
		err := addInitTree(tw, path)
		if err == nil {
			err = tw.Close()
		}
		w.CloseWithError(err)
	}()
	return r
}

func addInitTree(tw treeWriter, path string) error {
	root, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	if info, err := os.Stat(root); err != nil || !info.IsDir() {
		return addEntry(tw, root, filepath.Base(path))
	}
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Name() == ".git" && path != root {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if d.Type()&fs.ModeSymlink != 0 && !staysIn(root, path) {
			target, err := filepath.EvalSymlinks(path)
			if err != nil {
				return nil //nolint:nilerr // it leads nowhere
			}
			if info, err := os.Stat(target); err != nil || !info.Mode().IsRegular() {
				return err
			}
			path, d = target, nil
		}
		if d != nil && d.Type()&(fs.ModeSocket|fs.ModeNamedPipe|fs.ModeDevice) != 0 {
			return nil
		}
		return addEntry(tw, path, filepath.ToSlash(rel))
	})
}

// staysIn says whether a link leads to a place below root, by a path that does.
func staysIn(root, link string) bool {
	target, err := os.Readlink(link)
	if err != nil || filepath.IsAbs(target) {
		return false
	}
	rel, err := filepath.Rel(root, filepath.Join(filepath.Dir(link), target))
	return err == nil && filepath.IsLocal(rel)
}

// addTree writes what lies below dir under the names prefix/….
func addTree(tw treeWriter, dir, prefix string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		name := filepath.ToSlash(filepath.Join(prefix, rel))
		if (tw.engine.PIDFile != "" && name == tw.engine.PIDFile) || d.Type()&(fs.ModeSocket|fs.ModeNamedPipe|fs.ModeDevice) != 0 {
			return nil
		}
		if d.Type()&fs.ModeSymlink != 0 && len(tw.engine.DataDir) > 0 {
			return addLink(tw, path, name)
		}
		return addEntry(tw, path, name)
	})
}

// addLink writes what a link of a data directory leads to: a server follows it, be it a tablespace's. One that leads nowhere is left out, and
// of a directory that is not copied only the directory is there.
func addLink(tw treeWriter, path, name string) error {
	if slices.Contains(tw.engine.SkippedDirs, name) {
		return tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o700, Format: tar.FormatPAX})
	}
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil //nolint:nilerr // checkDataDir has told it
	}
	info, err := os.Stat(target)
	if err != nil || !info.IsDir() {
		return errors.Join(err, addEntry(tw, target, name))
	}
	if rel, err := filepath.Rel(target, path); err == nil && filepath.IsLocal(rel) {
		return fmt.Errorf("%s leads to a directory that it lies in", path)
	}
	return addTree(tw, target, name)
}

// deadLinks lists the links in a data directory that lead nowhere.
func deadLinks(e api.Engine, dir string) (dead []string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // whoever reads it next says so
	}
	for _, d := range entries {
		if d.Type()&fs.ModeSymlink == 0 || slices.Contains(e.SkippedDirs, d.Name()) {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, d.Name())); err != nil {
			dead = append(dead, filepath.Join(dir, d.Name()))
		}
	}
	return dead
}

func addLinkedDir(tw treeWriter, path, name string) error {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	return addTree(tw, target, name)
}

func addEntry(tw treeWriter, path, name string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	link := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if link, err = os.Readlink(path); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	h.Name, h.Uname, h.Gname, h.Format = name, "", "", tar.FormatPAX
	if info.IsDir() {
		h.Name += "/"
	}
	if err := tw.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
		return err
	}
	return addContent(tw, path, h.Size)
}

func addContent(tw treeWriter, path string, n int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.CopyN(tw, f, n); err != nil {
		return fmt.Errorf("%s changed while it was read: %w", path, err)
	}
	return nil
}

// checkDataDir refuses a directory that cannot become a golden: no data
// directory of the engine's, that of a server that runs here, or one with parts elsewhere.
func checkDataDir(e api.Engine, dir string) error {
	if len(e.DataDir) == 0 {
		return usagef("ctrsnap engine inspect %s tells more", e.Name).of("--from-dir: engine %s takes no data directories", e.Name)
	}
	if !slices.ContainsFunc(e.DataDir, func(name string) bool { _, err := os.Stat(filepath.Join(dir, name)); return err == nil }) {
		return usagef("--from-dump takes dumps").of("--from-dir: %s is no data directory of %s: it has no %s", dir, e.Name, strings.Join(e.DataDir, " or "))
	}
	if pid := serverOf(e, dir); pid != 0 {
		return usagef("stop it, or dump it while it runs with --from-url").of("--from-dir: a server runs on %s: process %d", dir, pid)
	}
	for _, name := range e.EmptyDirs {
		if entries, err := os.ReadDir(filepath.Join(dir, name)); err == nil && len(entries) > 0 {
			return usagef("use --from-url or --from-dump").of("--from-dir: %s has data outside of it: %s", dir, name)
		}
	}
	return nil
}

// serverOf returns the process id of the server that runs on the data directory,
// or 0. A pid file may be left of a crash, and its number then be that of another program.
func serverOf(e api.Engine, dir string) int {
	if e.PIDFile == "" {
		return 0
	}
	b, err := os.ReadFile(filepath.Join(dir, e.PIDFile))
	if err != nil {
		return 0
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	pid, err := strconv.Atoi(strings.TrimSpace(string(line)))
	if err != nil || pid <= 0 || syscall.Kill(pid, 0) == syscall.ESRCH {
		return 0
	}
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err == nil && len(e.Processes) > 0 && !slices.Contains(e.Processes, strings.TrimSpace(string(comm))) {
		return 0
	}
	return pid
}
