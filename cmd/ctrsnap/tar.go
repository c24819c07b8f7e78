package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// pidFile is what a running Postgres keeps in its data directory.
const pidFile = "postmaster.pid"

// tarDir returns a tar stream of all below dir, with modes and owners, made
// while it is read. Sockets and fifos are left out, and so is postmaster.pid:
// it names a process that will not exist where the copy is used.
func tarDir(dir string) io.ReadCloser {
	r, w := io.Pipe()
	go func() {
		tw := tar.NewWriter(w)
		err := addLinkedDir(tw, dir, "")
		if err == nil {
			err = tw.Close()
		}
		w.CloseWithError(err)
	}()
	return r
}

// addTree writes what lies below dir under the names prefix/….
func addTree(tw *tar.Writer, dir, prefix string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		name := filepath.ToSlash(filepath.Join(prefix, rel))
		if name == pidFile || d.Type()&(fs.ModeSocket|fs.ModeNamedPipe|fs.ModeDevice) != 0 {
			return nil
		}
		if (name == "pg_wal" || name == "pg_xlog") && d.Type()&fs.ModeSymlink != 0 {
			return addLinkedDir(tw, path, name) // initdb --waldir puts it elsewhere
		}
		return addEntry(tw, path, name)
	})
}

func addLinkedDir(tw *tar.Writer, path, name string) error {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	return addTree(tw, target, name)
}

func addEntry(tw *tar.Writer, path, name string) error {
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

func addContent(tw *tar.Writer, path string, n int64) error {
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
// directory, that of a server that runs here, or one with parts elsewhere.
func checkDataDir(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "PG_VERSION")); err != nil {
		return usagef("a data directory is what initdb makes; --from-dump takes dumps").of("--from-dir: %s is no data directory: it has no PG_VERSION", dir)
	}
	if pid := serverOf(dir); pid != 0 {
		return usagef("stop it (pg_ctl stop -D %s), or dump it while it runs with --from-url", dir).of("--from-dir: a server runs on %s: process %d", dir, pid)
	}
	spaces, err := os.ReadDir(filepath.Join(dir, "pg_tblspc"))
	if err == nil && len(spaces) > 0 {
		return usagef("use --from-url or --from-dump").of("--from-dir: %s has tablespaces outside of it", dir)
	}
	return nil
}

// serverOf returns the process id of the server that runs on the data directory,
// or 0. A pid file may be left of a crash, and its number then be that of another program.
func serverOf(dir string) int {
	b, err := os.ReadFile(filepath.Join(dir, pidFile))
	if err != nil {
		return 0
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	pid, err := strconv.Atoi(strings.TrimSpace(string(line)))
	if err != nil || pid <= 0 || syscall.Kill(pid, 0) == syscall.ESRCH {
		return 0
	}
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if name := strings.TrimSpace(string(comm)); err == nil && name != "postgres" && name != "postmaster" {
		return 0
	}
	return pid
}
