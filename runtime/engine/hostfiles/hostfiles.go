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
	"[", "awk", "base64", "basename", "bash", "bunzip2", "bzip2", "cat", "chgrp", "chmod", "chown", "cksum", "cmp", "comm", "cp", "csplit", "cut",
	"date", "dd", "df", "diff", "dirname", "du", "echo", "egrep", "env", "expand", "expr", "false", "fgrep", "find", "fmt", "fold", "getent", "grep",
	"groups", "gunzip", "gzip", "head", "hostname", "id", "install", "join", "ln", "locale", "ls", "md5sum", "mkdir", "mkfifo", "mktemp", "mv", "nice",
	"nl", "nohup", "nproc", "numfmt", "od", "paste", "printenv", "printf", "ps", "pwd", "readlink", "realpath", "rev", "rm", "rmdir", "sed", "seq",
	"sh", "sha1sum", "sha256sum", "sha512sum", "shuf", "sleep", "sort", "split", "stat", "sync", "tac", "tail", "tar", "tee", "test", "timeout", "touch",
	"tr", "true", "truncate", "tty", "uname", "unexpand", "uniq", "unxz", "wc", "which", "whoami", "xargs", "xz", "xzcat", "yes", "zcat", "zstd",
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
