package build

import (
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/packed"
	"github.com/ctrsnap/ctrsnap/snapshot/foreign"
)

// scripts takes a directory with scripts and what they read, as one that is mounted to an official image: those at its top run,
// sorted by name as bytes, but for hidden ones. A tar of one file is that script.
func (s *spool) scripts(part api.Part, r io.Reader) error {
	name := s.name(strings.TrimSuffix(part.Name, ".tar"))
	dir := path.Join("init", name)
	if err := s.tree("init", dir, part.Name, r); err != nil {
		return err
	}
	entries, err := fs.ReadDir(foreign.FS(s.root), dir) // sorted
	if err != nil {
		return err
	}
	var extensions []string
	if d, ok := s.engine.(runtime.Describer); ok {
		extensions = d.Describe().Scripts
	}
	found := len(s.src.Init)
	for _, e := range entries {
		info, err := s.root.Stat(path.Join(dir, e.Name()))
		if err != nil || !info.Mode().IsRegular() || strings.HasPrefix(e.Name(), ".") || !isScript(e.Name(), extensions) {
			continue
		}
		s.src.Init = append(s.src.Init, path.Join(name, e.Name()))
		if len(entries) == 1 && e.Name()+".tar" == part.Name {
			s.names = append([]string{path.Join(name, e.Name()), display(e.Name())}, s.names...)
		}
	}
	if len(s.src.Init) == found {
		return invalid("no script in the directory: its files' names end in none of %s", strings.Join(extensions, " "))
	}
	return nil
}

func isScript(name string, extensions []string) bool {
	for _, ext := range packed.Extensions {
		name = strings.TrimSuffix(name, ext)
	}
	return slices.Contains(extensions, path.Ext(name))
}
