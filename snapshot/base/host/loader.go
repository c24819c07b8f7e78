package host

import (
	"bufio"
	"debug/elf"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// loader knows where ld.so(8) looks for shared libraries.
type loader struct {
	libraryPath []string // of the HostTree, as LD_LIBRARY_PATH
	configured  []string // /etc/ld.so.conf
	system      map[elf.Machine]string
}

// place is a directory of the host that may hold a library, and where that
// library has to be in the root filesystem for the loader to find it.
type place struct{ host, target string }

func newLoader(libraryPath []string) *loader {
	return &loader{
		libraryPath: libraryPath,
		configured:  readConf("/etc/ld.so.conf", 0),
		system:      map[elf.Machine]string{},
	}
}

// triplets are the names of Debian's directories for libraries.
var triplets = map[elf.Machine]string{
	elf.EM_X86_64:  "x86_64-linux-gnu",
	elf.EM_386:     "i386-linux-gnu",
	elf.EM_AARCH64: "aarch64-linux-gnu",
	elf.EM_ARM:     "arm-linux-gnueabihf",
	elf.EM_PPC64:   "powerpc64le-linux-gnu",
	elf.EM_S390:    "s390x-linux-gnu",
	elf.EM_RISCV:   "riscv64-linux-gnu",
}

// defaultDirs are the directories that a loader knows without configuration.
func defaultDirs(o *object) []string {
	var dirs []string
	if t, ok := triplets[o.machine]; ok {
		dirs = append(dirs, "/lib/"+t, "/usr/lib/"+t)
	}
	if o.class == elf.ELFCLASS64 {
		dirs = append(dirs, "/lib64", "/usr/lib64")
	}
	return append(dirs, "/lib", "/usr/lib")
}

// systemDir is the one of the default directories that this host's own C
// library is in: which of them a loader knows was decided when it was built.
func (l *loader) systemDir(o *object) string {
	if dir, known := l.system[o.machine]; known {
		return dir
	}
	l.system[o.machine] = "/lib"
	for _, dir := range defaultDirs(o) {
		if _, err := os.Stat(filepath.Join(dir, "libc.so.6")); err == nil {
			l.system[o.machine] = dir
			break
		}
	}
	return l.system[o.machine]
}

// places returns where the loader looks for a library that o needs, in its
// order: ld.so(8), "Dynamic loading". A root filesystem has no ld.so.cache and
// no LD_LIBRARY_PATH, so what is found by those goes to the system's directory.
func (l *loader) places(o *object) []place {
	var places []place
	if len(o.runpath) == 0 {
		for by := o; by != nil; by = by.loadedBy {
			if len(by.runpath) == 0 {
				places = append(places, by.expand(by.rpath)...)
			}
		}
	}
	system := l.systemDir(o)
	for _, dir := range l.libraryPath {
		places = append(places, place{filepath.Clean(dir), system})
	}
	places = append(places, o.expand(o.runpath)...)
	defaults := defaultDirs(o)
	for _, dir := range l.configured {
		if !slices.Contains(defaults, dir) {
			places = append(places, place{dir, system})
		}
	}
	for _, dir := range defaults {
		places = append(places, place{dir, dir})
	}
	return places
}

// expand replaces $ORIGIN, on the host and in the root filesystem. Entries
// with $LIB or $PLATFORM are ignored, relative ones too.
func (o *object) expand(dirs []string) []place {
	var places []place
	for _, dir := range dirs {
		p := place{origin(dir, path.Dir(o.source)), origin(dir, path.Dir(o.target))}
		if path.IsAbs(p.host) && path.IsAbs(p.target) && !strings.Contains(p.host, "$") {
			places = append(places, p)
		}
	}
	return places
}

func origin(dir, with string) string {
	dir = strings.ReplaceAll(dir, "${ORIGIN}", with)
	return path.Clean(strings.ReplaceAll(dir, "$ORIGIN", with))
}

// readConf returns the directories that a file in the format of ld.so.conf
// names, following its includes to a depth that no real one has.
func readConf(name string, depth int) []string {
	f, err := os.Open(name)
	if err != nil || depth > 4 {
		return nil // as ldconfig does
	}
	defer f.Close()
	var dirs []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line, _, _ := strings.Cut(lines.Text(), "#")
		line = strings.TrimSpace(line)
		if pattern, ok := strings.CutPrefix(line, "include "); ok {
			pattern = strings.TrimSpace(pattern)
			if !filepath.IsAbs(pattern) {
				pattern = filepath.Join(filepath.Dir(name), pattern)
			}
			files, _ := filepath.Glob(pattern)
			for _, file := range files {
				dirs = append(dirs, readConf(file, depth+1)...)
			}
		} else if filepath.IsAbs(line) {
			dirs = append(dirs, filepath.Clean(line))
		}
	}
	return dirs
}
