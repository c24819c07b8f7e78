package main

import (
	"os"
	"os/exec"
	"path/filepath"
)

// programs returns where programs of ours are looked for before PATH: where the
// configuration says, beside the daemon, and where `make install` puts them.
func (d *daemon) programs() []string {
	dirs := d.cfg.Containerd.BinDirs
	if exe, err := os.Executable(); err == nil {
		here := filepath.Dir(exe)
		dirs = append(dirs[:len(dirs):len(dirs)], here, filepath.Join(here, "..", "libexec", "ctrsnap"))
	}
	return dirs
}

// program returns the path of a program, or "" where it is not found: whoever
// needs it says so.
func (d *daemon) program(name string) string {
	for _, dir := range d.programs() {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return ""
	}
	return path
}

func (d *daemon) runc() string {
	if d.cfg.Containerd.Runc != "" {
		return d.cfg.Containerd.Runc
	}
	return d.program("runc")
}
