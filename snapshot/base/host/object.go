package host

import (
	"bufio"
	"debug/elf"
	"io"
	"os"
	"path"
	"strings"

	"github.com/ctrsnap/ctrsnap/snapshot/foreign"
)

// object is a program, a shared library or a script.
type object struct {
	source, target string
	explicit       bool    // asked for by name
	required       bool    // needed by a program, or one itself
	loadedBy       *object // whose DT_RPATH applies as well

	class   elf.Class
	machine elf.Machine
	interp  string // PT_INTERP, or the interpreter of a script
	args    string // of the script's interpreter
	script  bool
	needed  []string
	rpath   []string // DT_RPATH, as it is written
	runpath []string // DT_RUNPATH
}

// isProgram says whether the kernel starts the object. Shared libraries may
// have an interpreter too (libc.so.6 does).
func (o *object) isProgram() bool {
	return o.interp != "" && !strings.Contains(path.Base(o.source), ".so")
}

// parse reads what an object needs. It returns nil for any other file.
func parse(source string) (*object, error) {
	f, err := foreign.OpenSource(source)
	if err != nil {
		return nil, class(err)
	}
	defer f.Close()
	var magic [4]byte
	if _, err := io.ReadFull(f, magic[:]); err != nil {
		return nil, nil // too short to be either
	}
	switch {
	case string(magic[:]) == elf.ELFMAG:
		return parseELF(f)
	case string(magic[:2]) == "#!":
		return parseScript(f)
	}
	return nil, nil
}

// parseScript reads the first line of a script as execve(2) does.
func parseScript(f *os.File) (*object, error) {
	if _, err := f.Seek(2, io.SeekStart); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(io.LimitReader(f, 255)).ReadString('\n')
	if err != nil && err != io.EOF {
		return nil, err
	}
	interp, args, _ := strings.Cut(strings.TrimSpace(line), " ")
	if !path.IsAbs(interp) {
		return nil, nil
	}
	return &object{script: true, interp: path.Clean(interp), args: strings.TrimSpace(args)}, nil
}

// parseELF reads the dynamic section and the name of the loader. A file that
// only looks like ELF is nil: that is for the loader to say.
func parseELF(r io.ReaderAt) (*object, error) {
	f, err := elf.NewFile(r)
	if err != nil {
		return nil, nil //nolint:nilerr // see above
	}
	if f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN {
		return nil, nil // relocatable objects and core files need nothing
	}
	o := &object{class: f.Class, machine: f.Machine}
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		b, err := io.ReadAll(io.LimitReader(p.Open(), 4096))
		if err != nil {
			return nil, err
		}
		o.interp = strings.TrimRight(string(b), "\x00")
	}
	strs := dynamicStrings(f)
	o.needed = strs[elf.DT_NEEDED]
	o.rpath = searchPath(strs[elf.DT_RPATH])
	o.runpath = searchPath(strs[elf.DT_RUNPATH])
	return o, nil
}

// dynamicStrings returns the strings of a dynamic section that say what to
// load. A static program has none. It reads these strings only, where
// elf.File.DynString reads the whole table, megabytes in a large library.
func dynamicStrings(f *elf.File) map[elf.DynTag][]string {
	section := f.SectionByType(elf.SHT_DYNAMIC)
	if section == nil || int(section.Link) >= len(f.Sections) {
		return nil
	}
	table := f.Sections[section.Link]
	data, err := section.Data()
	if err != nil || table.ReaderAt == nil {
		return nil
	}
	strs := map[elf.DynTag][]string{}
	word := 8
	read := f.ByteOrder.Uint64
	if f.Class == elf.ELFCLASS32 {
		word, read = 4, func(b []byte) uint64 { return uint64(f.ByteOrder.Uint32(b)) }
	}
	for ; len(data) >= 2*word; data = data[2*word:] {
		switch tag := elf.DynTag(read(data)); tag {
		case elf.DT_NULL:
			return strs
		case elf.DT_NEEDED, elf.DT_RPATH, elf.DT_RUNPATH:
			strs[tag] = append(strs[tag], stringAt(table, int64(read(data[word:]))))
		}
	}
	return strs
}

// stringAt returns the string at an offset, cut at a length no path has.
func stringAt(r io.ReaderAt, offset int64) string {
	var buf [4096]byte
	n, _ := r.ReadAt(buf[:], offset) // the table ends sooner
	s, _, _ := strings.Cut(string(buf[:n]), "\x00")
	return s
}

func searchPath(values []string) []string {
	var dirs []string
	for _, v := range values {
		for dir := range strings.SplitSeq(v, ":") {
			if dir != "" { // the working directory: no place for a library
				dirs = append(dirs, dir)
			}
		}
	}
	return dirs
}
