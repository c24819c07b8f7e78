package described

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime/engine/hostfiles"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// defaultUID is the server's user where neither host nor image know its name.
const defaultUID = 999

// Host lists the description's programs and files of this host, or of packages
// that were unpacked at prefix.
func (e *Engine) Host(_ context.Context, prefix string) (snapshot.HostTree, error) {
	if prefix != "" {
		if !filepath.IsAbs(prefix) {
			return snapshot.HostTree{}, fmt.Errorf("prefix %q is not absolute: %w", prefix, errdefs.ErrInvalidArgument)
		}
		prefix = strings.TrimSuffix(filepath.Clean(prefix), "/")
	}
	id := hostfiles.UserID(e.d.Server.User, defaultUID)
	t := snapshot.HostTree{
		Name:  e.d.Name + " of " + at(prefix),
		Users: []snapshot.User{{Name: e.d.Server.User, ID: id, Home: e.d.Server.Data}},
		Dirs: []snapshot.HostDir{
			{Path: e.d.Server.Data, Mode: 0o700, UID: id, GID: id},
			{Path: "/tmp", Mode: 0o1777},
		},
	}
	if prefix != "" {
		t.LibraryPath = hostfiles.PackageLibraries(prefix)
	}
	if err := e.programs(&t, prefix); err != nil {
		return snapshot.HostTree{}, err
	}
	for _, f := range e.d.Host.Files {
		t.Files = append(t.Files, snapshot.HostFile{Source: prefix + f, Target: f, Optional: true})
	}
	t.Files = append(t.Files, snapshot.HostFile{Source: "/usr/share/zoneinfo", Target: "/usr/share/zoneinfo", Optional: true})
	t.Files = append(t.Files, hostfiles.Tools()...)
	return t, nil
}

func at(prefix string) string {
	if prefix == "" {
		return "this host"
	}
	return prefix
}

func (e *Engine) programs(t *snapshot.HostTree, prefix string) error {
	for i, name := range append(append([]string(nil), e.d.Host.Programs...), e.d.Host.Optional...) {
		p := findProgram(name, func(p string) bool { return isProgram(prefix + p) })
		if p != "" {
			t.Files = append(t.Files, snapshot.HostFile{Source: prefix + p, Target: p})
			continue
		}
		if i < len(e.d.Host.Programs) {
			return snapshot.WithHint(fmt.Errorf("find %s of engine %s on %s: %w", name, e.d.Name, at(prefix), errdefs.ErrNotFound),
				"install it, or give --from-host=PREFIX, --image or --image-archive")
		}
	}
	return nil
}

// findProgram returns the path of a program, or "".
func findProgram(name string, is func(string) bool) string {
	if path.IsAbs(name) {
		if is(name) {
			return name
		}
		return ""
	}
	for _, dir := range strings.Split(searchPath, ":") {
		if p := dir + "/" + name; is(p) {
			return p
		}
	}
	return ""
}

func isProgram(p string) bool {
	info, err := os.Stat(p)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}
