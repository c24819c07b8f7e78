package host

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/snapshot/storage"
)

// What is here looks at what a daemon needs before it starts. None of it changes anything.

// CheckRoot says whether this process may do what a daemon does.
func CheckRoot(context.Context) []api.Check {
	c := api.Check{Name: "root", Status: ok, Detail: "this is root"}
	if os.Geteuid() != 0 {
		c.Status, c.Detail, c.Why, c.Fix = failed, "this is not root", "the daemon mounts filesystems and makes network namespaces", "run it by sudo"
	}
	return []api.Check{c}
}

// CheckGroup says whether the group exists that may use the socket, and whether it is the socket's where that is there.
func CheckGroup(group, socket string) Check {
	return One(func(context.Context) api.Check {
		c := api.Check{Name: "group", Status: ok, Detail: "members of " + group + " may use " + socket}
		if group == "" {
			c.Detail = "none: root alone may use " + socket
			return c
		}
		g, err := user.LookupGroup(group)
		if err != nil {
			c.Status, c.Detail, c.Why = warning, fmt.Sprintf("group %s does not exist", group), "root alone may use "+socket
			c.Fix = MakeGroup(group) + ": no restart is needed"
			return c
		}
		var st unix.Stat_t
		if unix.Stat(socket, &st) == nil && strconv.Itoa(int(st.Gid)) != g.Gid {
			c.Status, c.Detail = warning, fmt.Sprintf("%s is not group %s's yet", socket, group)
			c.Why, c.Fix = "its members are refused", "wait a few seconds, or chgrp "+group+" "+socket
		}
		return c
	})
}

// MakeGroup is the command by which a group comes to be, with a member.
func MakeGroup(group string) string {
	return fmt.Sprintf("groupadd --system %s && usermod -aG %s USER, who then logs in anew", group, group)
}

// CheckDirs says whether directories can be written to, or be made.
func CheckDirs(dirs ...string) Check {
	return func(context.Context) (checks []api.Check) {
		for _, dir := range slices.Compact(dirs) {
			c := api.Check{Name: "directory", Status: ok, Detail: dir}
			if err := unix.Access(nearest(dir), unix.W_OK); err != nil {
				c.Status, c.Detail, c.Fix = failed, fmt.Sprintf("%s: %v", dir, err), "mount it writable, or choose another by root or state in the configuration"
			}
			checks = append(checks, c)
		}
		return checks
	}
}

// nearest returns dir, or the first directory above it that exists.
func nearest(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || dir == "/" {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

// CheckStorageAhead says what storage a start would find or make.
func CheckStorageAhead(o storage.Options) Check {
	return func(context.Context) (checks []api.Check) {
		for _, c := range storage.Foresee(o) {
			checks = append(checks, api.Check(c))
		}
		return checks
	}
}

// CheckSocket says whether a daemon serves the socket already.
func CheckSocket(serves func(socket string) error, socket string) Check {
	return One(func(context.Context) api.Check {
		c := api.Check{Name: "socket", Status: ok, Detail: socket + " is free"}
		switch err := serves(socket); {
		case err == nil:
			c.Status, c.Detail, c.Fix = warning, "a daemon serves "+socket, "ask it by 'ctrsnap doctor', which knows more; a second one does not start"
		case !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.ECONNREFUSED):
			c.Status, c.Detail, c.Fix = failed, err.Error(), "choose another api.socket"
		}
		return c
	})
}

// CheckPrograms says whether programs are found that a daemon starts: find returns "" for one that is not.
func CheckPrograms(find func(name string) string, why map[string]string) Check {
	return func(context.Context) (checks []api.Check) {
		for _, name := range slices.Sorted(maps.Keys(why)) {
			c, need := api.Check{Name: "program " + name, Status: ok, Detail: find(name)}, why[name]
			if c.Detail == "" {
				c.Status, c.Detail, c.Why, c.Fix = failed, "not found", need, "install it beside ctrsnapd, in ../libexec/ctrsnap, or name its directory in containerd.bin_dirs"
			}
			checks = append(checks, c)
		}
		return checks
	}
}

// CheckKernel says whether the kernel has what clones are made of. wantUsers says that a start without user namespaces
// fails.
func CheckKernel(proc string, wantUsers bool) Check {
	return func(context.Context) []api.Check {
		fs := api.Check{Name: "overlay", Status: ok, Detail: "known to the kernel"}
		b, err := os.ReadFile(filepath.Join(proc, "filesystems"))
		if err != nil || !strings.Contains(string(b), "\toverlay\n") {
			fs.Status, fs.Detail, fs.Why, fs.Fix = warning, "not loaded", "clones are overlays of their goldens", "modprobe overlay"
		}
		users := api.Check{Name: "user namespaces", Status: ok}
		b, err = os.ReadFile(filepath.Join(proc, "sys/user/max_user_namespaces"))
		if users.Detail = strings.TrimSpace(string(b)) + " at most"; err != nil || strings.TrimSpace(string(b)) == "0" {
			users.Status, users.Detail = warning, "none are allowed"
		} else if release, old := before63(proc); old {
			users.Status, users.Detail = warning, "Linux "+release+" cannot map the users of overlays"
		}
		if users.Status != ok {
			users.Why, users.Fix = "without them only administrators get clones and builds", "take Linux 6.3 or later, and set the sysctl user.max_user_namespaces"
			if wantUsers {
				users.Status = failed
			}
		}
		return []api.Check{fs, users}
	}
}

// before63 says whether the kernel is older than 6.3.
func before63(proc string) (release string, old bool) {
	b, err := os.ReadFile(filepath.Join(proc, "sys/kernel/osrelease"))
	release = strings.TrimSpace(string(b))
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil || n < 2 {
		return release, false // nobody knows
	}
	return release, major < 6 || major == 6 && minor < 3
}
