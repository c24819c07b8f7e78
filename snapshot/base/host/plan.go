// Package host makes minimal root filesystems of the files of this host: the
// files that are asked for, the shared libraries that their ELF headers ask
// for, the interpreters of scripts, and a small /etc. It knows nothing of
// containers or snapshots: [Find] makes a [Plan], [Plan.Write] carries it out
// in an empty directory.
//
// A root filesystem made here is readable by whoever uses a golden, and who
// asks for it may have put links and names of other files in its way. So nothing is copied
// that not every user of the host may read, files are read with the rights of who asked, and what lies outside of their prefix has to be root's.
package host

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"syscall"

	"github.com/opencontainers/go-digest"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// format is part of every [Plan.Key]. It changes when the same inputs make
// another root filesystem.
const format = "ctrsnap host base 1"

// Limits of a plan. PostgreSQL with all its extensions and time zones has
// 3,000 entries and 250 MB; beyond these bounds a link has led to somewhere else.
const (
	maxEntries = 200_000
	maxBytes   = 16 << 30
)

// Plan lists every file of a root filesystem and where it comes from.
type Plan struct {
	Name    string // as in HostTree
	reader  snapshot.HostReader
	entries []entry
}

// entry is one file of a root filesystem.
type entry struct {
	target string      // cleaned absolute path in the root filesystem
	mode   fs.FileMode // type (directory, symlink or regular) and permission bits
	uid    int
	gid    int
	link   string // where a symlink leads

	source string   // file of the host, itself no symlink, or "" for data
	id     identity // of source when it was found
	data   []byte
}

// identity is what stat(2) says about a file that changes with its content.
type identity struct {
	dev, ino     uint64
	size         int64
	mode         uint32
	mtime, ctime int64 // nanoseconds
}

func identify(info fs.FileInfo) identity {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok { // not a file of the operating system
		return identity{size: info.Size(), mtime: info.ModTime().UnixNano()}
	}
	return identity{
		dev: uint64(st.Dev), ino: st.Ino, size: st.Size, mode: st.Mode, //nolint:unconvert // Dev's type varies
		mtime: st.Mtim.Nano(), ctime: st.Ctim.Nano(),
	}
}

// Key identifies the inputs of the plan without reading their content: path,
// size, mode, inode, modification and change time of each. The same key means
// the same root filesystem.
func (p *Plan) Key() digest.Digest {
	h := sha256.New()
	_, _ = fmt.Fprintln(h, format)
	for _, e := range p.entries {
		_, _ = fmt.Fprintf(h, "%q %o %d %d %q %v %q\n", e.target, e.mode, e.uid, e.gid, e.link, e.id, e.data)
	}
	return digest.NewDigest(digest.SHA256, h)
}

// Size returns the sum of the sizes of all files, in bytes.
func (p *Plan) Size() int64 {
	var n int64
	for _, e := range p.entries {
		n += e.id.size + int64(len(e.data))
	}
	return n
}

// newPlan sorts entries, parents first, and adds the directories that are not
// among them.
func newPlan(tree snapshot.HostTree, entries map[string]entry) *Plan {
	for _, target := range slices.Collect(maps.Keys(entries)) {
		for dir := path.Dir(target); dir != "/"; dir = path.Dir(dir) {
			if _, ok := entries[dir]; ok {
				break
			}
			entries[dir] = directory(dir, 0o755)
		}
	}
	p := &Plan{Name: tree.Name, reader: tree.Reader}
	for _, target := range slices.Sorted(maps.Keys(entries)) {
		p.entries = append(p.entries, entries[target])
	}
	return p
}

func directory(target string, perm fs.FileMode) entry {
	return entry{target: target, mode: fs.ModeDir | perm}
}

func symlink(target, link string) entry {
	return entry{target: target, mode: fs.ModeSymlink | 0o777, link: link}
}

func generated(target, content string) entry {
	return entry{target: target, mode: 0o644, data: []byte(content)}
}

// stat returns what is at name, not following a link.
func stat(name string) (fs.FileInfo, identity, error) {
	info, err := os.Lstat(name)
	if err != nil {
		return nil, identity{}, err
	}
	return info, identify(info), nil
}
