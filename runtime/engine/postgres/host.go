package postgres

import (
	"context"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime/engine/hostfiles"
	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/foreign"
)

// targetPrefix is where an installation of some prefix is put. PostgreSQL
// finds its files relative to its programs, so it may be moved as a whole.
const targetPrefix = "/opt/postgresql"

var (
	serverPrograms = []string{"postgres", "initdb"}
	clientPrograms = []string{
		"psql", "pg_dump", "pg_dumpall", "pg_restore", "pg_controldata", "pg_ctl",
		"pg_amcheck", "pg_resetwal", "vacuumdb",
	}
)

// installation is where PostgreSQL lies on the host, and where it will.
type installation struct {
	bin, lib, share string // lib is pkglibdir
	// root is what the targets of the three lie below on the host, and
	// target what it becomes: "" is "/".
	root, target string
	libraryPath  []string
	zoneinfo     string
}

// Host lists an installation of this host: the newest that the system has,
// the one at prefix, or the one of Debian packages unpacked at prefix. The
// programs are not run: who chose prefix is not trusted.
func (*Engine) Host(_ context.Context, prefix string) (snapshot.HostTree, error) {
	in, err := findInstallation(prefix)
	if err != nil {
		return snapshot.HostTree{}, err
	}
	f, err := foreign.OpenPath(in.bin + "/postgres")
	if err != nil {
		return snapshot.HostTree{}, notInstalled(prefix)
	}
	defer f.Close()
	version, err := scanVersion(f)
	if err != nil || major(version) < minMajor {
		return snapshot.HostTree{}, notInstalled(prefix)
	}
	return in.tree(version), nil
}

func notInstalled(prefix string) error {
	if prefix == "" {
		prefix = "this host"
	}
	return snapshot.WithHint(fmt.Errorf("find PostgreSQL %d or newer on %s: %w", minMajor, prefix, errdefs.ErrNotFound),
		"install postgresql, or give --from-host=PREFIX, --image or --image-archive")
}

func findInstallation(prefix string) (installation, error) {
	if prefix == "" {
		return findSystem()
	}
	if !filepath.IsAbs(prefix) {
		return installation{}, fmt.Errorf("prefix %q is not absolute: %w", prefix, errdefs.ErrInvalidArgument)
	}
	prefix = filepath.Clean(prefix)
	for _, in := range append([]installation{atPrefix(prefix)}, debian(prefix)...) {
		if in.valid() {
			return in, in.within(prefix)
		}
	}
	return installation{}, notInstalled(prefix)
}

// findSystem looks where distributions put PostgreSQL.
func findSystem() (installation, error) {
	all := debian("/")
	for _, dir := range newest("/usr/pgsql-*") {
		all = append(all, installation{bin: dir + "/bin", lib: dir + "/lib", share: dir + "/share"})
	}
	if p, err := exec.LookPath("postgres"); err == nil {
		if p, err = filepath.EvalSymlinks(p); err == nil {
			all = append(all, guess(filepath.Dir(p))...)
		}
	}
	for _, in := range all {
		if in.valid() {
			return in, nil
		}
	}
	return installation{}, notInstalled("")
}

// guess guesses the directories that belong to one with programs: Fedora,
// Arch, Alpine, and an installation of its own.
func guess(bin string) []installation {
	up := filepath.Dir(bin)
	var all []installation
	for _, lib := range []string{"/lib64/pgsql", "/lib/pgsql", "/lib/postgresql", "/lib"} {
		for _, share := range []string{"/share/pgsql", "/share/postgresql", "/share"} {
			all = append(all, installation{bin: bin, lib: up + lib, share: up + share})
		}
	}
	return all
}

// newest returns the directories that match pattern, highest number first.
func newest(pattern string) []string {
	dirs, _ := filepath.Glob(pattern) // the pattern is well formed
	version := func(dir string) int {
		n, _ := strconv.Atoi(dir[strings.LastIndexAny(dir, "/-")+1:])
		return n
	}
	slices.SortFunc(dirs, func(a, b string) int { return version(b) - version(a) })
	return dirs
}

// debian returns Debian's layout below root, one per version.
func debian(root string) []installation {
	var all []installation
	for _, dir := range newest(filepath.Join(root, "usr/lib/postgresql/*")) {
		in := installation{
			bin: dir + "/bin", lib: dir + "/lib",
			share: filepath.Join(root, "usr/share/postgresql", filepath.Base(dir)),
			root:  strings.TrimSuffix(root, "/"),
		}
		if in.root != "" {
			in.libraryPath = hostfiles.PackageLibraries(root)
			in.zoneinfo = filepath.Join(root, "usr/share/zoneinfo")
		}
		all = append(all, in)
	}
	return all
}

// atPrefix is what "configure --prefix" makes.
func atPrefix(prefix string) installation {
	either := func(dirs ...string) string {
		for _, d := range dirs[:len(dirs)-1] {
			if isDir(d) {
				return d
			}
		}
		return dirs[len(dirs)-1]
	}
	return installation{
		bin:   prefix + "/bin",
		lib:   either(prefix+"/lib/postgresql", prefix+"/lib"),
		share: either(prefix+"/share/postgresql", prefix+"/share"),
		root:  prefix, target: targetPrefix, libraryPath: []string{prefix + "/lib"},
	}
}

func isDir(p string) bool {
	info, err := os.Stat(p)
	return err == nil && info.IsDir()
}

func isFile(p string) bool {
	info, err := os.Stat(p)
	return err == nil && info.Mode().IsRegular()
}

// valid says whether all is there that a server needs.
func (in installation) valid() bool {
	return isFile(in.bin+"/postgres") && isFile(in.bin+"/initdb") &&
		isFile(in.share+"/postgres.bki") && isFile(in.lib+"/plpgsql.so")
}

// within refuses directories that are links to something outside of prefix.
func (in installation) within(prefix string) error {
	real, err := filepath.EvalSymlinks(prefix)
	if err != nil {
		return err
	}
	for _, dir := range []string{in.bin, in.lib, in.share} {
		d, err := filepath.EvalSymlinks(dir)
		if err != nil {
			return err
		}
		if rel, err := filepath.Rel(real, d); err != nil || !filepath.IsLocal(rel) {
			return fmt.Errorf("%s is not within %s: %w", dir, prefix, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// to is where a path of the installation will be.
func (in installation) to(p string) string { return in.target + strings.TrimPrefix(p, in.root) }

func (in installation) tree(version string) snapshot.HostTree {
	id := hostfiles.UserID("postgres", defaultUID)
	t := snapshot.HostTree{
		Name:        "postgresql " + version,
		LibraryPath: in.libraryPath,
		Users:       []snapshot.User{{Name: "postgres", ID: id, Home: "/var/lib/postgresql"}},
		Dirs: []snapshot.HostDir{
			{Path: "/var/lib/postgresql", Mode: 0o755, UID: id, GID: id},
			{Path: "/var/run/postgresql", Mode: 0o775, UID: id, GID: id},
			{Path: "/tmp", Mode: 0o1777},
		},
	}
	t.Files = append(t.Files, in.programs()...)
	t.Files = append(t.Files,
		snapshot.HostFile{Source: in.lib, Target: in.to(in.lib)},
		snapshot.HostFile{Source: in.share, Target: in.to(in.share)})
	t.Files = append(t.Files, in.soNames()...)
	t.Files = append(t.Files, in.surroundings()...)
	return t
}

// programs lists the server's programs and the clients. Those that the
// installation lacks come from elsewhere on the host: psql talks to any server.
func (in installation) programs() []snapshot.HostFile {
	var files []snapshot.HostFile
	for _, name := range serverPrograms {
		files = append(files, snapshot.HostFile{Source: in.bin + "/" + name, Target: in.to(in.bin) + "/" + name})
	}
	for _, name := range clientPrograms {
		source := in.bin + "/" + name
		if !isFile(source) {
			source = elsewhere(name)
		}
		if source != "" {
			files = append(files, snapshot.HostFile{Source: source, Target: in.to(in.bin) + "/" + name})
		}
	}
	return files
}

// elsewhere finds a client program of the system. The one in PATH may be
// Debian's wrapper script, so that it comes last.
func elsewhere(name string) string {
	for _, dir := range append(newest("/usr/lib/postgresql/*"), newest("/usr/pgsql-*")...) {
		if p := dir + "/bin/" + name; isFile(p) {
			return p
		}
	}
	p, err := exec.LookPath(name)
	if err != nil {
		return ""
	}
	return p
}

// soNames lists libraries under the names that programs ask for, where those
// are missing: archives that know no links leave them out.
func (in installation) soNames() []snapshot.HostFile {
	if in.target == "" {
		return nil
	}
	var files []snapshot.HostFile
	libs, _ := filepath.Glob(in.root + "/lib/lib*.so.*") // the pattern is well formed
	for _, lib := range libs {
		name := soName(lib)
		if name == "" || strings.Contains(name, "/") || isFile(in.root+"/lib/"+name) {
			continue
		}
		files = append(files, snapshot.HostFile{Source: lib, Target: in.target + "/lib/" + name})
	}
	return files
}

func soName(lib string) string {
	file, err := foreign.OpenPath(lib)
	if err != nil {
		return ""
	}
	defer file.Close()
	f, err := elf.NewFile(file)
	if err != nil {
		return ""
	}
	names, err := f.DynString(elf.DT_SONAME)
	if err != nil || len(names) == 0 {
		return ""
	}
	return names[0]
}

// surroundings are time zones, locales and what scripts run with.
func (in installation) surroundings() []snapshot.HostFile {
	zoneinfo := "/usr/share/zoneinfo"
	if isDir(in.zoneinfo) {
		zoneinfo = in.zoneinfo
	}
	files := []snapshot.HostFile{{Source: zoneinfo, Target: "/usr/share/zoneinfo", Optional: true}}
	for _, dir := range []string{"/usr/share/proj", "/usr/share/gdal"} { // of PostGIS
		if p := filepath.Join(in.surrounding(), dir); isDir(p) && isFile(in.lib+"/postgis-3.so") {
			files = append(files, snapshot.HostFile{Source: p, Target: dir})
		}
	}
	return append(files, hostfiles.Tools()...)
}

// surrounding is the root of the system that the installation belongs to.
func (in installation) surrounding() string {
	if in.target == "" && in.root != "" {
		return in.root
	}
	return "/"
}
