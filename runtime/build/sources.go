package build

import (
	"io"
	"path"
	"slices"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// source is a kind of what a golden is built from.
type source struct {
	parts []string // kinds of the request's parts that bring it; none if the request itself says it
	flag  string   // of the command line, where it is enough to make a golden of; else ""
	whole bool     // it is the whole database: of these there is one kind at most
	more  bool     // there may be several
	has   func(runtime.Sources) bool
	// take takes a part in.
	take func(s *spool, part api.Part, r io.Reader) error
	// say tells what the request says of it, as the golden remembers it.
	say func(api.BuildRequest) ([]snapshot.Source, error)
}

// kinds are all kinds of sources.
var kinds = []source{
	{
		parts: []string{api.PartInit, api.PartInitTar}, flag: "--init", has: func(src runtime.Sources) bool { return len(src.Init) > 0 },
		take: func(s *spool, part api.Part, r io.Reader) (err error) {
			if part.Kind == api.PartInitTar {
				return s.scripts(part, r)
			}
			return s.script(&s.src.Init, "init", part, r)
		},
	}, {
		parts: []string{api.PartDump, api.PartDumpTar}, flag: "--from-dump", whole: true, more: true,
		has: func(src runtime.Sources) bool { return src.Dump != "" }, take: (*spool).dump,
	}, {
		flag: "--from-url", whole: true, has: func(src runtime.Sources) bool { return src.URL != "" }, say: sayURL,
	}, {
		parts: []string{api.PartDirTar}, flag: "--from-dir", whole: true, has: func(src runtime.Sources) bool { return src.Dir },
		take: func(s *spool, part api.Part, r io.Reader) error {
			s.src.Dir = true
			return s.tree("dir", "dir", part.Name, r)
		},
	}, {
		flag: "--exec", has: func(src runtime.Sources) bool { return len(src.Exec) > 0 }, say: sayExec,
	}, {
		parts: []string{api.PartMask}, has: func(src runtime.Sources) bool { return len(src.Mask) > 0 },
		take: func(s *spool, part api.Part, r io.Reader) error { return s.script(&s.src.Mask, "mask", part, r) },
	},
}

func sayURL(req api.BuildRequest) ([]snapshot.Source, error) {
	u, err := redactURL(req.FromURL)
	if err != nil || u == "" {
		return nil, err
	}
	return []snapshot.Source{{Kind: "url", Name: u}}, nil
}

func sayExec(req api.BuildRequest) (said []snapshot.Source, _ error) {
	for _, command := range req.Exec {
		said = append(said, snapshot.Source{Kind: "exec", Name: command})
	}
	return said, nil
}

// takeSource takes in a part of any kind of source.
func (s *spool) takeSource(part api.Part, r io.Reader) error {
	n := slices.IndexFunc(kinds, func(k source) bool { return slices.Contains(k.parts, part.Kind) })
	if n < 0 {
		return invalid("unknown kind of file")
	}
	another := func(k source) bool {
		return k.whole && k.has(s.src) && (!k.more || !slices.Contains(k.parts, part.Kind))
	}
	if kinds[n].whole && slices.ContainsFunc(kinds, another) {
		return invalid("more than one of dump, data directory and URL")
	}
	return kinds[n].take(s, part, r)
}

// script takes in a file of those that are run one after the other.
func (s *spool) script(all *[]string, dir string, part api.Part, r io.Reader) error {
	name, err := s.file(dir, part.Name, r)
	*all = append(*all, name)
	return err
}

func (s *spool) dump(part api.Part, r io.Reader) (err error) {
	if s.src.Dump != "" {
		s.src.Before = append(s.src.Before, s.src.Dump)
	}
	if part.Kind == api.PartDump {
		if s.src.Dump, err = s.file("dump", part.Name, r); err != nil {
			return err
		}
		return s.unpackDump(r.(*reader).ctx, part.Name)
	}
	s.src.Dump = s.name(part.Name)
	return s.tree("dump", path.Join("dump", s.src.Dump), part.Name, r)
}
