package postgres

import (
	"bytes"
	"io"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime/engine/rootfs"
	"github.com/ctrsnap/ctrsnap/snapshot/foreign"
)

// defaultUID is the server's user where the base names none. It is that of
// the official image.
const defaultUID = 999

// detect finds the programs, the server's user and the data directory in the
// root filesystem, and makes there what every build needs. want is the major
// version to be found; 0 takes the base's own choice, or the newest.
func (b *build) detect(r *rootfs.Root, want int) error {
	env := b.src.Base.Config.Env
	if err := b.findPrograms(r, envOf(env, "PATH"), want); err != nil {
		return err
	}
	b.findUser(r)
	b.st.DataDir = envOf(env, "PGDATA")
	if !path.IsAbs(b.st.DataDir) {
		b.st.DataDir = "/var/lib/postgresql/data"
	}
	b.st.DataDir = path.Clean(b.st.DataDir)
	for _, kv := range env {
		if !strings.HasPrefix(kv, "POSTGRES_") && !strings.HasPrefix(kv, "PG") {
			b.st.Env = append(b.st.Env, kv)
		}
	}
	return b.prepare(r)
}

// prepare makes the directories and ctrsnap's own rules of access.
func (b *build) prepare(r *rootfs.Root) error {
	uid, gid := int(b.st.UID), int(b.st.GID)
	if err := r.MkdirAll(b.st.DataDir, 0o700, uid, gid); err != nil {
		return err
	}
	data, err := r.Dir(b.st.DataDir)
	if err != nil {
		return err
	}
	defer func() { _ = data.Close() }()
	if err := data.Chown(".", uid, gid); err != nil {
		return err
	}
	if err := data.Chmod(".", 0o700); err != nil {
		return err
	}
	if err := r.MkdirAll("/tmp", 0o777, 0, 0); err != nil {
		return err
	}
	b.findSocketDir(r)
	if err := b.writeCertificate(r); err != nil {
		return err
	}
	return writeFile(r, hbaFile, rules, 0o644)
}

// imageSocketDir is where servers of images and distributions have their socket: scripts name it.
const imageSocketDir = "/var/run/postgresql"

// findSocketDir says whether the server under construction can have a socket there, too.
func (b *build) findSocketDir(r *rootfs.Root) {
	b.socketDir = false
	if err := r.MkdirAll(imageSocketDir, 0o775, int(b.st.UID), int(b.st.GID)); err != nil {
		return
	}
	dir, err := r.Dir(imageSocketDir)
	if err != nil {
		return
	}
	defer func() { _ = dir.Close() }()
	info, err := dir.Stat(".")
	if err != nil {
		return
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	b.socketDir = ok && (st.Uid == b.st.UID && st.Mode&0o200 != 0 || st.Mode&0o002 != 0)
}

// writeFile writes a file, in a directory that it makes if need be.
func writeFile(r *rootfs.Root, name, text string, mode os.FileMode) error {
	if err := r.MkdirAll(path.Dir(name), 0o755, 0, 0); err != nil {
		return err
	}
	dir, err := r.Dir(path.Dir(name))
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	return foreign.WriteFile(dir, path.Base(name), []byte(text), mode)
}

// findPrograms looks in PATH first: that is the version which an image means.
func (b *build) findPrograms(r *rootfs.Root, searchPath string, want int) error {
	var have []string
	for _, dir := range binDirs(r, searchPath) {
		if !r.IsFile(dir+"/postgres") || !r.IsFile(dir+"/initdb") {
			continue
		}
		f, err := r.File(dir + "/postgres")
		if err != nil {
			return err
		}
		version, err := scanVersion(f)
		f.Close()
		if err != nil {
			continue // a wrapper script
		}
		if n := major(version); n >= minMajor && (want == 0 || n == want) {
			b.st.BinDir, b.st.Version = dir, version
			return nil
		}
		have = append(have, "PostgreSQL "+version)
	}
	return errNoServer(want, slices.Compact(have))
}

// binDirs are the directories that may hold the programs, best first.
func binDirs(r *rootfs.Root, searchPath string) []string {
	dirs := slices.DeleteFunc(strings.Split(searchPath, ":"), func(d string) bool { return !path.IsAbs(d) })
	dirs = append(dirs, "/opt/postgresql/bin")
	for _, layout := range []struct{ parent, prefix, suffix string }{
		{"/usr/lib/postgresql", "", "/bin"}, // Debian
		{"/usr", "pgsql-", "/bin"},          // PGDG on Red Hat
		{"/usr/libexec", "postgresql", ""},  // Alpine
	} {
		var versions []int
		for _, name := range r.List(layout.parent) {
			if n, err := strconv.Atoi(strings.TrimPrefix(name, layout.prefix)); err == nil {
				versions = append(versions, n)
			}
		}
		slices.Sort(versions)
		for _, n := range slices.Backward(versions) {
			dirs = append(dirs, layout.parent+"/"+layout.prefix+strconv.Itoa(n)+layout.suffix)
		}
	}
	return append(dirs, "/usr/local/pgsql/bin", "/usr/local/bin", "/usr/bin")
}

// findUser reads passwd(5). An image that names a number runs as that.
func (b *build) findUser(r *rootfs.Root) {
	b.st.UID, b.st.GID = defaultUID, defaultUID
	user, group, _ := strings.Cut(b.src.Base.Config.User, ":")
	if n, err := strconv.ParseUint(user, 10, 32); err == nil && n != 0 {
		b.st.UID, b.st.GID = uint32(n), 0
		if g, err := strconv.ParseUint(group, 10, 32); err == nil {
			b.st.GID = uint32(g)
		}
		return
	}
	text, _ := r.ReadFile("/etc/passwd", 1<<20) // none is fine
	for line := range strings.Lines(string(text)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 4 || f[0] != "postgres" {
			continue
		}
		uid, err1 := strconv.ParseUint(f[2], 10, 32)
		gid, err2 := strconv.ParseUint(f[3], 10, 32)
		if err1 == nil && err2 == nil && uid != 0 {
			b.st.UID, b.st.GID = uint32(uid), uint32(gid)
		}
	}
}

// versionRE is what "postgres --version" prints, as it lies in the program.
var versionRE = regexp.MustCompile(`postgres \(PostgreSQL\) ([0-9]+[0-9a-z.]*)`)

// scanVersion reads the version out of the server's program: it is not run,
// for it is not trusted.
func scanVersion(r io.Reader) (string, error) {
	const window = 1 << 20
	buf := make([]byte, 0, window+256)
	for {
		n, err := io.ReadFull(r, buf[len(buf):window+256])
		buf = buf[:len(buf)+n]
		if i := bytes.Index(buf, []byte("postgres (PostgreSQL) ")); i >= 0 && (err != nil || i < len(buf)-128) {
			if m := versionRE.FindSubmatch(buf[i:]); m != nil {
				return string(m[1]), nil
			}
		}
		if err != nil {
			return "", unix.ENOEXEC
		}
		buf = append(buf[:0], buf[len(buf)-256:]...)
	}
}
