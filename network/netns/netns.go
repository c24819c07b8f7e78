// Package netns makes and deletes network namespaces that live by a bind mount.
package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// idRE is the grammar of ids: they become file names and links' aliases.
var idRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// CheckID says with InvalidArgument that an id is no name.
func CheckID(id string) error {
	if !idRE.MatchString(id) {
		return fmt.Errorf("invalid id %q of a network namespace: %w", id, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Make makes a network namespace that lives by its bind mount at dir/id, with
// loopback up. Interfaces made in it get no IPv6 address by themselves. What it fails with leaves nothing behind; an id
// that exists is AlreadyExists. See network_namespaces(7).
func Make(dir, id string) (path string, err error) {
	path = filepath.Join(dir, id)
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("make network namespace %s: %w", id, errdefs.ErrAlreadyExists)
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return "", fmt.Errorf("make network namespace: %w", err)
	}
	if err := OnNewThread(func() error { return bindNew(path) }); err != nil {
		return "", errors.Join(fmt.Errorf("make network namespace %s: %w", id, err), Delete(path))
	}
	return path, nil
}

// OnNewThread runs fn on a thread of its own that ends with it, so that no
// other goroutine ever runs in the namespace that fn moves it to, and nothing
// keeps that namespace afterwards.
func OnNewThread(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The runtime cannot end the first thread of the process: it would stay in
			// the namespace for ever. As long as it is held here, others get another one.
			defer runtime.UnlockOSThread()
			done <- OnNewThread(fn)
			return
		}
		done <- fn() // the runtime ends a thread whose goroutine ends without unlocking it
	}()
	return <-done
}

// Inside runs fn on a thread in the namespace at path.
func Inside(path string, fn func() error) error {
	return OnNewThread(func() error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", path, err)
		}
		return fn()
	})
}

// bindNew leaves the calling thread in the new namespace.
func bindNew(path string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := prepare(); err != nil {
		return err
	}
	if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind to %s: %w", path, err)
	}
	return nil
}

// prepare sets up the namespace of the calling thread.
func prepare() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set loopback up: %w", err)
	}
	if !HasIPv6() {
		return DisableIPv6("all", "default")
	}
	return QuietIPv6("default")
}

// HasIPv6 says whether the calling thread's namespace uses IPv6.
func HasIPv6() bool {
	for _, name := range []string{"all", "default"} {
		b, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + name + "/disable_ipv6")
		if err != nil || string(b) != "0\n" {
			return false
		}
	}
	return true
}

// QuietIPv6 has interfaces of the calling thread's namespace make no addresses
// of their own: neither a link-local one nor what a router announces. See
// https://docs.kernel.org/networking/ip-sysctl.html.
func QuietIPv6(names ...string) error {
	for _, name := range names {
		if err := errors.Join(set6(name, "addr_gen_mode", "1"), set6(name, "accept_ra", "0")); err != nil {
			return err
		}
	}
	return nil
}

// DisableIPv6 switches IPv6 off for interfaces of the calling thread's namespace.
func DisableIPv6(names ...string) error {
	for _, name := range names {
		if err := set6(name, "disable_ipv6", "1"); err != nil {
			return err
		}
	}
	return nil
}

// set6 sets a value of an interface. A kernel without IPv6 needs none; in a
// container that may not write them, what the kernel does by itself stays.
func set6(name, key, value string) error {
	err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/"+key, []byte(value), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.EROFS) {
		return fmt.Errorf("set %s of %s for IPv6: %w", key, name, err)
	}
	return nil
}

// Delete deletes the bind mount of a namespace, whole or not. The namespace
// itself ends a little later, with its last process.
func Delete(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	// EINVAL: not a mount point.
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount network namespace %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("delete network namespace: %w", err)
	}
	return nil
}

// Is says whether a namespace is mounted at path.
func Is(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}
