// Package hostfiles lists what engines take from this host beside their own
// programs: a shell with its tools, locales, and the numbers of users.
package hostfiles

import (
	"os/exec"
	"os/user"
	"path"
	"path/filepath"
	"strconv"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// tools are what init scripts commonly use.
var tools = []string{
	"awk", "base64", "basename", "bash", "cat", "chmod", "cp", "cut", "date", "dirname", "echo", "env", "expr",
	"find", "grep", "gunzip", "gzip", "head", "hostname", "id", "locale", "ls", "mkdir", "mktemp", "mv", "printf", "rm", "sed", "seq",
	"sh", "sleep", "sort", "tail", "tee", "test", "touch", "tr", "true", "uname", "uniq", "wc", "xargs", "zstd",
}

// Tools returns the tools that this host has, and the locales and terminals that
// programs look for.
func Tools() []snapshot.HostFile {
	var files []snapshot.HostFile
	for _, p := range []string{
		"/usr/lib/locale/C.utf8", "/usr/lib/locale/locale-archive", "/lib/terminfo", "/usr/share/terminfo/x",
	} {
		files = append(files, snapshot.HostFile{Source: p, Target: p, Optional: true})
	}
	for _, name := range tools {
		if p, err := exec.LookPath(name); err == nil {
			files = append(files, snapshot.HostFile{Source: p, Target: path.Join("/bin", name), Optional: true})
		}
	}
	return files
}

// PackageLibraries are the directories of shared libraries of packages that
// were unpacked at root.
func PackageLibraries(root string) []string {
	var dirs []string
	for _, pattern := range []string{"usr/lib/*-linux-gnu*", "usr/lib", "lib/*-linux-gnu*", "usr/lib/*-linux-gnu*/blas", "usr/lib/*-linux-gnu*/lapack"} {
		found, _ := filepath.Glob(filepath.Join(root, pattern)) // the pattern is well formed
		dirs = append(dirs, found...)
	}
	return dirs
}

// UserID is the number of a user of this host, so that files belong to the same
// on both sides, or other.
func UserID(name string, other int) int {
	u, err := user.Lookup(name)
	if err != nil {
		return other
	}
	n, err := strconv.Atoi(u.Uid)
	if err != nil || n == 0 {
		return other
	}
	return n
}
