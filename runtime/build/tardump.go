package build

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"path"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/packed"
	"github.com/ctrsnap/ctrsnap/snapshot/foreign"
)

// unpackDump makes a directory of a dump that is one, in a tar that may be packed: dump.tar.gz. A tar that the dump's own program
// has written has the table of contents at its top, by its plain name, and stays.
func (s *spool) unpackDump(ctx context.Context, original string) error {
	d, ok := s.engine.(runtime.Describer)
	if !ok || d.Describe().DumpDir == "" {
		return nil
	}
	file := path.Join("dump", s.src.Dump)
	at := ""
	err := s.readTar(file, func(r io.Reader) (err error) {
		at, err = findDump(r, d.Describe().DumpDir)
		return err
	})
	if err != nil || at == "" {
		return nil //nolint:nilerr // it is no tar: whatever it is, the engine says
	}
	s.parts++
	name := s.name("dump")
	err = s.readTar(file, func(r io.Reader) error {
		return s.tree("dump", path.Join("dump", name), original, &reader{ctx: ctx, r: r, count: s.count})
	})
	if err != nil {
		return err
	}
	s.names = append(s.names, name, display(original))
	s.src.Dump = path.Join(name, at)
	return s.root.Remove(file)
}

func (s *spool) readTar(file string, read func(io.Reader) error) error {
	f, err := foreign.Open(s.root, file)
	if err != nil {
		return err
	}
	defer f.Close()
	content, err := packed.Unpack(f)
	if err != nil {
		return err
	}
	defer content.Close()
	return read(content)
}

// findDump returns the directory of a tar in which the table of contents of a dump lies, "" if none does or it has the tar's top
// without a path. The dump comes first, or never: a tar that begins with many other files is none.
func findDump(r io.Reader, contents string) (dir string, err error) {
	const most = 10000
	t := tar.NewReader(r)
	for range most {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		switch {
		case h.Name == contents:
			return "", nil
		case path.Base(h.Name) == contents:
			return path.Dir(path.Clean(h.Name)), nil
		}
	}
	return "", nil
}
