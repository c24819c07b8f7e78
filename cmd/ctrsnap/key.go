package main

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
	"slices"
	"strings"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

// keyOf returns the key of a golden: a digest over the names and content of
// the files that the globs match, sorted by name. Modes and times do not count. A glob that matches no file is an error:
// a key of nothing would never change.
func keyOf(globs []string) (string, error) {
	var files []string
	for _, g := range globs {
		found, err := glob(g)
		if err != nil {
			return "", usagef("* ? [a-z] match within a name, ** matches any directories").of("--key %s: %s", g, reason(err))
		}
		if len(found) == 0 {
			return "", usagef("globs are relative to the current directory; quote them for the shell").of("--key %s: no file matches", g)
		}
		files = append(files, found...)
	}
	slices.Sort(files)
	return digest(slices.Compact(files))
}

func digest(files []string) (string, error) {
	h := sha256.New()
	for _, f := range files {
		if err := addToDigest(h, f); err != nil {
			return "", usagef("all files of --key must be readable").of("--key: %s", reason(err))
		}
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}

// addToDigest hashes name and content on their own first, so that no two sets of
// files run together into the same bytes.
func addToDigest(h hash.Hash, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return addNamed(h, file, f)
}

func addNamed(h hash.Hash, name string, r io.Reader) error {
	content := sha256.New()
	if _, err := io.Copy(content, r); err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(name))
	h.Write(sum[:])
	h.Write(content.Sum(nil))
	return nil
}

// glob returns the files that pattern matches, by their paths with slashes.
// ** stands for any number of directories; a directory that matches stands for
// all files below it. The directory .git is passed over.
func glob(pattern string) ([]string, error) {
	pattern = path.Clean(filepath.ToSlash(pattern))
	segments := strings.Split(pattern, "/")
	for _, s := range segments {
		if _, err := path.Match(s, ""); err != nil {
			return nil, err
		}
	}
	fixed := slices.IndexFunc(segments, func(s string) bool { return strings.ContainsAny(s, `*?[\`) })
	if fixed < 0 {
		return below(pattern)
	}
	root := strings.Join(segments[:fixed], "/")
	if root == "" && strings.HasPrefix(pattern, "/") {
		root = "/"
	}
	return matching(root, segments[fixed:])
}

// matching returns the files below root whose path from there matches.
func matching(root string, segments []string) ([]string, error) {
	dir := root
	if dir == "" {
		dir = "."
	}
	all, err := below(dir)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, f := range all {
		rel := strings.TrimPrefix(strings.TrimPrefix(f, root), "/")
		if rel != "" && matches(segments, strings.Split(rel, "/")) {
			found = append(found, f)
		}
	}
	return found, nil
}

// matches says whether the segments of a pattern match the names, or a directory above the last of them.
func matches(pattern, names []string) bool {
	switch {
	case len(pattern) == 0:
		return true // what is left lies below a directory that matched
	case pattern[0] == "**" && matches(pattern[1:], names):
		return len(pattern) > 1 || len(names) > 0
	case len(names) == 0:
		return false
	case pattern[0] == "**":
		return matches(pattern, names[1:])
	}
	ok, _ := path.Match(pattern[0], names[0]) // patterns were checked
	return ok && matches(pattern[1:], names[1:])
}

// below returns file itself, or the files below it. What is not there is not an error.
func below(root string) ([]string, error) {
	info, err := os.Stat(root)
	switch {
	case os.IsNotExist(err):
		return nil, nil
	case err != nil:
		return nil, err
	case info.Mode().IsRegular():
		return []string{root}, nil
	}
	var files []string
	err = filepath.WalkDir(root+"/" /* follows a link */, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == ".git":
			return fs.SkipDir
		case isFile(p, d):
			files = append(files, filepath.ToSlash(p))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list files: %w", err)
	}
	return files, nil
}

// isFile says whether p is a regular file, or a link to one.
func isFile(p string, d fs.DirEntry) bool {
	if d.Type()&fs.ModeSymlink == 0 {
		return d.Type().IsRegular()
	}
	info, err := os.Stat(p)
	return err == nil && info.Mode().IsRegular()
}

// partDigests returns a digest of the sources of each kind: of their names and content, in their order.
func partDigests(parts []client.Part) (map[string]string, error) {
	sums := map[string]hash.Hash{}
	for _, p := range parts {
		h := sums[p.Kind]
		if h == nil {
			h = sha256.New()
			sums[p.Kind] = h
		}
		if err := addPart(h, p); err != nil {
			return nil, usagef("all sources must be readable").of("%s: %s", p.Name, reason(err))
		}
	}
	digests := map[string]string{}
	for kind, h := range sums {
		digests[kind] = hex.EncodeToString(h.Sum(nil)[:16])
	}
	return digests, nil
}

func addPart(h hash.Hash, p client.Part) error {
	r, err := p.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	if p.Kind != api.PartDumpTar && p.Kind != api.PartDirTar && p.Kind != api.PartInitTar {
		return addNamed(h, p.Name, r)
	}
	t := tar.NewReader(r) // whose times differ with each checkout
	for {
		e, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			name := fmt.Sprintf("%c %s %s", e.Typeflag, e.Name, e.Linkname)
			if p.Kind == api.PartInitTar && e.Mode&0o100 != 0 {
				name += " x"
			}
			err = addNamed(h, name, t)
		}
		if err != nil {
			return err
		}
	}
}
