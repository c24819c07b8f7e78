package build

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
)

// Limits of a tar that bound what its names cost in memory. The files have no
// limit but the disk.
const (
	maxEntries   = 4 << 20
	maxDirs      = 1 << 16
	maxEntryName = 1024 // bytes
)

// untar unpacks a tar into root, which is empty: directories, regular files,
// and symbolic links that lead to a place in root. All else is refused, as is a
// name that comes twice. Owners and modes of the tar do not count: directories
// get 0755, files 0644 or, if executable, 0755.
//
// It returns the number of bytes in files and a digest of names, kinds and
// content in the order of the tar; times do not count.
func untar(root *os.Root, r io.Reader) (digest string, size int64, err error) {
	x := &extractor{root: root, tr: tar.NewReader(r), dirs: map[string]bool{".": true}, hash: sha256.New()}
	for {
		hdr, err := x.tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", 0, tarError(err)
		}
		if x.entries++; x.entries > maxEntries {
			return "", 0, invalid("tar has more than %d entries", maxEntries)
		}
		if err := x.entry(hdr); err != nil {
			return "", 0, fmt.Errorf("entry %.200q: %w", hdr.Name, tarError(err))
		}
	}
	if x.entries == 0 {
		return "", 0, invalid("tar is empty")
	}
	return hex.EncodeToString(x.hash.Sum(nil)), x.size, nil
}

// tarError gives errors that are the tar's own fault their class.
func tarError(err error) error {
	for _, own := range []error{
		tar.ErrHeader, tar.ErrInsecurePath, tar.ErrFieldTooLong, io.ErrUnexpectedEOF,
		fs.ErrExist, syscall.ENOTDIR, syscall.ENAMETOOLONG, syscall.EISDIR,
	} {
		if errors.Is(err, own) {
			return invalid("malformed tar: %w", err)
		}
	}
	return err
}

type extractor struct {
	root    *os.Root
	tr      *tar.Reader
	dirs    map[string]bool // made so far: no entry passes through anything else
	hash    hash.Hash
	size    int64
	entries int
}

func (x *extractor) entry(hdr *tar.Header) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := entryName(hdr.Name)
	if err != nil {
		return err
	}
	if sparse(hdr) {
		return invalid("sparse files are not taken")
	}
	_, _ = fmt.Fprintf(x.hash, "%c %q %q %d\n", hdr.Typeflag, name, hdr.Linkname, hdr.Size)
	if hdr.Typeflag == tar.TypeDir {
		return x.mkdir(name)
	}
	if err := x.mkdir(path.Dir(name)); err != nil {
		return err
	}
	switch hdr.Typeflag {
	case tar.TypeReg:
		return x.file(name, hdr)
	case tar.TypeSymlink:
		return x.symlink(name, hdr.Linkname)
	default:
		return invalid("it is %s, not a file, directory or symbolic link", typeName(hdr.Typeflag))
	}
}

// typeName names a type of entry that is refused.
func typeName(flag byte) string {
	switch flag {
	case tar.TypeBlock:
		return "a block device"
	case tar.TypeChar:
		return "a character device"
	case tar.TypeFifo:
		return "a FIFO"
	case tar.TypeLink:
		return "a hard link"
	}
	return fmt.Sprintf("of type %q", flag)
}

// entryName returns the clean name of an entry, relative to the root.
func entryName(name string) (string, error) {
	if len(name) > maxEntryName {
		return "", invalid("name is longer than %d bytes", maxEntryName)
	}
	clean := path.Clean(name)
	if name == "" || hasDotDot(name) || !filepath.IsLocal(clean) {
		return "", invalid("name leaves the directory")
	}
	return clean, nil
}

// sparse files grow when they are unpacked: a small upload could fill the disk.
func sparse(hdr *tar.Header) bool {
	for k := range hdr.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return hdr.Typeflag == tar.TypeGNUSparse
}

// mkdir makes dir and those above it. What exists but was not made here (a
// file, a symbolic link) is not passed through: Mkdir fails.
func (x *extractor) mkdir(dir string) error {
	if x.dirs[dir] {
		return nil
	}
	if err := x.mkdir(path.Dir(dir)); err != nil {
		return err
	}
	if len(x.dirs) >= maxDirs {
		return invalid("more than %d directories", maxDirs)
	}
	if err := x.root.Mkdir(dir, 0o755); err != nil {
		return err
	}
	x.dirs[dir] = true
	return x.root.Chmod(dir, 0o755)
}

func (x *extractor) file(name string, hdr *tar.Header) error {
	mode := os.FileMode(0o644)
	if hdr.Mode&0o100 != 0 {
		mode = 0o755
	}
	n, err := writeFile(x.root, name, mode, io.TeeReader(x.tr, x.hash))
	x.size += n
	return err
}

// symlink makes a link whose target is of the form ../../a/b and stays in the
// root. As the directories above name are real ones, its leading ".."s cannot
// leave the root, and what follows them goes down only, be it through other
// such links.
func (x *extractor) symlink(name, target string) error {
	down := target
	for strings.HasPrefix(down, "../") {
		down = strings.TrimPrefix(down, "../")
	}
	if target == "" || len(target) > maxEntryName || path.IsAbs(target) ||
		(down != ".." && hasDotDot(down)) || !filepath.IsLocal(path.Join(path.Dir(name), target)) {
		return invalid("symbolic link to %.200q leaves the directory", target)
	}
	return x.root.Symlink(target, name)
}

func hasDotDot(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return true
		}
	}
	return false
}
