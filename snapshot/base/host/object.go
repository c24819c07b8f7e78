package host

import (
	"bufio"
	"debug/elf"
	"io"
	"os"
	"path"
	"strings"
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
	f, err := os.Open(source)
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
	// A static program has no dynamic section: an error that means none.
	o.needed, _ = f.DynString(elf.DT_NEEDED)
	o.rpath = searchPath(f, elf.DT_RPATH)
	o.runpath = searchPath(f, elf.DT_RUNPATH)
	return o, nil
}

func searchPath(f *elf.File, tag elf.DynTag) []string {
	values, _ := f.DynString(tag)
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
