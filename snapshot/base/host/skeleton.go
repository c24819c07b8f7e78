package host

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// mergedDirs returns which top-level directories of this host are links into
// /usr ("/bin" to "/usr/bin"), so that programs find their loader, their
// libraries and each other at the paths that were built into them.
func mergedDirs() map[string]string {
	merged := map[string]string{}
	for _, dir := range []string{"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/usr/sbin", "/usr/lib64"} {
		link, err := os.Readlink(dir)
		if err != nil {
			continue
		}
		if !path.IsAbs(link) {
			link = path.Join(path.Dir(dir), link)
		}
		if link = path.Clean(link); within("/usr", link) {
			merged[dir] = link
		}
	}
	return merged
}

// normal returns target with the links of mergedDirs followed.
func (f *finder) normal(target string) string {
	for range len(f.merged) { // a link may lead to another: /sbin, /usr/sbin, /usr/bin
		next := target
		for dir, to := range f.merged {
			if rest, ok := strings.CutPrefix(target, dir+"/"); ok {
				next = path.Join(to, rest)
			}
		}
		if next == target {
			break
		}
		target = next
	}
	return target
}

// skeleton adds what every root filesystem has. Where the tree brings a file
// or directory of that name, the tree's is kept.
func (f *finder) skeleton(tree snapshot.HostTree) {
	var entries []entry
	for dir, to := range f.merged {
		// Relative, so that the link stays inside wherever the tree is mounted.
		link := strings.TrimPrefix(to, "/")
		if path.Dir(dir) == "/usr" {
			link = strings.TrimPrefix(link, "usr/")
		}
		entries = append(entries, directory(to, 0o755), symlink(dir, link))
	}
	for _, d := range tree.Dirs { // these win: they have an owner
		e := entry{
			target: f.normal(path.Clean("/" + d.Path)),
			mode:   fs.ModeDir | unixMode(d.Mode), uid: d.UID, gid: d.GID,
		}
		f.entries[e.target] = e
	}
	for _, dir := range []string{"/dev", "/etc", "/proc", "/run", "/sys", "/usr", "/var"} {
		entries = append(entries, directory(dir, 0o755))
	}
	entries = append(entries,
		directory("/root", 0o700),
		directory("/tmp", fs.ModeSticky|0o777),
		directory("/var/tmp", fs.ModeSticky|0o777),
		symlink("/var/run", "../run"),
		symlink("/etc/localtime", "../usr/share/zoneinfo/Etc/UTC"),
		generated("/etc/timezone", "Etc/UTC\n"),
		generated("/etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"),
		generated("/etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n"),
		generated("/etc/passwd", passwd(tree.Users)),
		generated("/etc/group", group(tree.Users)),
		generated("/etc/ld.so.conf", strings.Join(f.loader.configured, "\n")+"\n"),
	)
	for _, e := range entries {
		if _, taken := f.entries[e.target]; !taken {
			f.entries[e.target] = e
		}
	}
}

// unixMode translates the permission bits of chmod(2).
func unixMode(mode uint32) fs.FileMode {
	m := fs.FileMode(mode) & fs.ModePerm
	if mode&0o1000 != 0 {
		m |= fs.ModeSticky
	}
	if mode&0o2000 != 0 {
		m |= fs.ModeSetgid
	}
	return m
}

func passwd(users []snapshot.User) string {
	var b strings.Builder
	b.WriteString("root:x:0:0:root:/root:/bin/sh\n")
	for _, u := range users {
		fmt.Fprintf(&b, "%s:x:%d:%d::%s:/bin/sh\n", u.Name, u.ID, u.ID, u.Home)
	}
	b.WriteString("nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n")
	return b.String()
}

func group(users []snapshot.User) string {
	var b strings.Builder
	b.WriteString("root:x:0:\n")
	for _, u := range users {
		fmt.Fprintf(&b, "%s:x:%d:\n", u.Name, u.ID)
	}
	b.WriteString("nogroup:x:65534:\n")
	return b.String()
}
