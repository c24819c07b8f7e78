package build

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// checkPrefix says whether caller may name prefix as the place of an engine's
// programs, and returns it without symbolic links. It is read with the caller's rights. Others will run what is in it, so a caller who
// is not root may only name what is their own or root's, and what nobody else can exchange.
func checkPrefix(prefix string, caller access.Caller) (string, error) {
	if caller.Remote != "" {
		return "", snapshot.WithHint(fmt.Errorf("use %.80q as prefix: it is of the daemon's host, and the caller is not: %w", prefix, errdefs.ErrPermissionDenied),
			"leave it out: from_host takes what is installed there")
	}
	if !filepath.IsAbs(prefix) || filepath.Clean(prefix) != prefix || strings.ContainsRune(prefix, 0) {
		return "", snapshot.WithHint(invalid("invalid prefix %.80q", prefix), "use an absolute path without '..'")
	}
	real, err := filepath.EvalSymlinks(prefix)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("prefix %s: %w", prefix, errdefs.ErrNotFound)
	}
	if err != nil {
		return "", fmt.Errorf("read prefix: %w", err)
	}
	for dir := real; ; dir = filepath.Dir(dir) {
		if err := checkPrefixDir(dir, caller); err != nil {
			return "", err
		}
		if dir == "/" {
			return real, nil
		}
	}
}

func checkPrefixDir(dir string, caller access.Caller) error {
	fi, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("read prefix: %w", err)
	}
	if !fi.IsDir() {
		return invalid("prefix %s is not a directory", dir)
	}
	if caller.IsRoot() {
		return nil
	}
	owner := int(fi.Sys().(*syscall.Stat_t).Uid)
	mode := fi.Mode()
	reachable := owner == caller.UID() || mode&0o001 != 0
	exchangeable := mode&0o022 != 0 && mode&fs.ModeSticky == 0
	if (owner == 0 || owner == caller.UID()) && reachable && !exchangeable {
		return nil
	}
	return snapshot.WithHint(
		fmt.Errorf("use %s as prefix: %w", dir, errdefs.ErrPermissionDenied),
		"the directory and those above it must be root's or your own, open to you and not writable for others")
}
