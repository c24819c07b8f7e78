package source

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"path"
	"strings"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/engine/rootfs"
	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/foreign"
)

// initDir is where official images have their init scripts, and scripts look for what lies beside them.
const initDir = "/docker-entrypoint-initdb.d"

// link makes links in initDir to what lies in directories, unless something has the name already. A base without ln can do without.
const link = `mkdir -p ` + initDir + ` && for dir; do for f in "$dir"/* "$dir"/.[!.]*; do
	[ -e "$f" ] && ! [ -e "` + initDir + `/${f##*/}" ] && ln -s "$f" ` + initDir + `/
done; done; exit 0`

// LinkInit shows the directories of init scripts at the place where official images have them. names are those of the scripts.
func LinkInit(ctx context.Context, svc runtime.Service, env, names []string) error {
	args := []string{"/bin/sh", "-c", link, "sh"}
	seen := map[string]bool{".": true}
	for _, name := range names {
		if dir := path.Dir(name); !seen[dir] {
			seen[dir] = true
			args = append(args, runtime.SourceDir+"/init/"+dir)
		}
	}
	if len(args) == 4 {
		return nil
	}
	err := svc.Exec(ctx, runtime.Process{Args: args, Env: env, Cwd: "/"}, runtime.Stdio{})
	var exit *runtime.ExitError
	if errors.As(err, &exit) {
		return nil
	}
	return err
}

// UnlinkInit takes the links away again, and their directory if nothing else is there.
func UnlinkInit(r *rootfs.Root) error {
	dir, err := r.Dir(initDir)
	if err != nil {
		return nil //nolint:nilerr // there is none
	}
	defer func() { _ = dir.Close() }()
	entries, err := fs.ReadDir(foreign.FS(dir), ".")
	if err != nil {
		return err
	}
	left := len(entries)
	for _, e := range entries {
		to, err := dir.Readlink(e.Name())
		if err != nil || !strings.HasPrefix(to, runtime.SourceDir+"/") {
			continue
		}
		if err := dir.Remove(e.Name()); err != nil {
			return err
		}
		left--
	}
	if left > 0 {
		return nil
	}
	top, err := r.Dir("/")
	if err != nil {
		return err
	}
	defer func() { _ = top.Close() }()
	return top.Remove(path.Base(initDir))
}

// HintCRLF adds to the error of a script that its lines end as Windows has them, which a shell takes for a part of each command.
func HintCRLF(file string, err error) error {
	if err == nil {
		return nil
	}
	f, ferr := foreign.OpenPath(file)
	if ferr != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, 4096)
	n, _ := f.Read(head)
	if !bytes.Contains(head[:n], []byte("\r\n")) {
		return err
	}
	return snapshot.WithHint(err, "the script's lines end in CR LF, which shells do not take: dos2unix, or .gitattributes with *.sh eol=lf")
}
