package described

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/engine/dial"
	"github.com/ctrsnap/ctrsnap/runtime/engine/rootfs"
	"github.com/ctrsnap/ctrsnap/runtime/engine/source"
	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/foreign"
)

// found makes the data directory that the server starts on.
func (b *build) found(ctx context.Context) error {
	if err := b.detect(ctx); err != nil {
		return err
	}
	if b.src.URL != "" {
		if err := b.fetch(ctx); err != nil {
			return err
		}
	}
	when := "new"
	switch {
	case b.src.Parent != nil:
		when = "parent"
	case b.src.Dir:
		when, b.loaded = "dir", true
		if err := b.copyDir(ctx); err != nil {
			return err
		}
	case b.src.Dump != "" && b.e.d.Build.DumpFile != "":
		when, b.loaded = "dump", true
		if err := b.putDump(ctx); err != nil {
			return err
		}
	}
	for _, s := range b.e.d.Build.Init {
		if s.When != "" && s.When != when {
			continue
		}
		b.wb.Step("prepare data directory")
		if err := b.run(ctx, b.st.fields(), s); err != nil {
			return b.foundError(when, err)
		}
	}
	return nil
}

func (b *build) foundError(when string, err error) error {
	switch when {
	case "dir":
		return sourceError("data directory", err)
	case "dump":
		return sourceError(b.dumpName(), err)
	}
	return fmt.Errorf("prepare data directory: %w", err)
}

// detect finds programs and user in the base, or takes a parent's.
func (b *build) detect(ctx context.Context) error {
	text := b.e.text
	if b.src.Parent != nil {
		s, err := b.e.of(*b.src.Parent)
		if err != nil {
			return err
		}
		b.st.state, b.loaded = s.state, true
		if b.src.Database != "" {
			b.st.DB = b.src.Database
		}
	}
	b.st.Description, b.st.Digest = text, b.e.digest
	b.chooseLogin()
	err := rootfs.Edit(ctx, b.wb.Root, func(r *rootfs.Root) error {
		if b.src.Parent == nil {
			if err := b.find(r); err != nil {
				return err
			}
		}
		return b.prepare(r)
	})
	if err != nil || len(b.e.d.Version.Args) == 0 {
		return err
	}
	return b.version(ctx)
}

// chooseLogin says who clones are handed out with.
func (b *build) chooseLogin() {
	if b.e.d.Build.User == "" {
		return
	}
	first := func(values ...string) string {
		for _, v := range values {
			if v != "" {
				return v
			}
		}
		return ""
	}
	user := b.st.User
	b.st.User = first(b.src.User, b.given("user"), b.st.User, b.e.d.Build.User)
	if user != b.st.User {
		b.st.Passwd = "" // it was another's
	}
	b.st.Passwd = first(b.src.Password, b.given("password"), b.st.Passwd, rand.Text())
	if b.src.Database != "" || !b.e.d.Build.Database {
		b.st.DB = b.src.Database
	}
}

// find looks for the programs and the user in the root filesystem.
func (b *build) find(r *rootfs.Root) error {
	b.st.Programs = map[string]string{}
	for i, name := range append(append([]string(nil), b.e.d.Host.Programs...), b.e.d.Host.Optional...) {
		p := findProgram(name, r.IsFile)
		if p != "" {
			b.st.Programs[name] = p
		} else if i < len(b.e.d.Host.Programs) {
			return snapshot.WithHint(fmt.Errorf("find %s in the base: %w", name, errdefs.ErrNotFound),
				"give a base that has it: --from-host=PREFIX, --image or --image-archive")
		}
	}
	b.st.Env = b.src.Base.Config.Env
	b.st.UID, b.st.GID = defaultUID, defaultUID
	text, _ := r.ReadFile("/etc/passwd", 1<<20) // none is fine
	for line := range strings.Lines(string(text)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 4 || f[0] != b.e.d.Server.User {
			continue
		}
		uid, err1 := strconv.ParseUint(f[2], 10, 32)
		gid, err2 := strconv.ParseUint(f[3], 10, 32)
		if err1 == nil && err2 == nil && uid != 0 {
			b.st.UID, b.st.GID = uint32(uid), uint32(gid)
		}
	}
	return nil
}

// prepare makes the directories of the server and of the build.
func (b *build) prepare(r *rootfs.Root) error {
	uid, gid := int(b.st.UID), int(b.st.GID)
	for _, dir := range []string{b.e.d.Server.Data, buildDir} {
		if err := r.MkdirAll(dir, 0o700, uid, gid); err != nil {
			return err
		}
		d, err := r.Dir(dir)
		if err != nil {
			return err
		}
		err = d.Chown(".", uid, gid)
		_ = d.Close()
		if err != nil {
			return err
		}
	}
	return r.MkdirAll("/tmp", 0o1777|os.ModeSticky, 0, 0)
}

var versionRE = regexp.MustCompile(`[0-9]+(\.[0-9]+)+[0-9A-Za-z.+~-]*`)

// version asks the server's program, in the container.
func (b *build) version(ctx context.Context) error {
	p, _, err := b.command(b.st.fields(), b.e.d.Version)
	if err != nil {
		return err
	}
	out := dial.Answer{Limit: maxAnswer}
	if err := b.wb.Run(ctx, p, runtime.RunOpts{Stdio: runtime.Stdio{Stdout: &out}}); err != nil {
		return fmt.Errorf("ask for the version: %w", err)
	}
	b.st.Version = versionRE.FindString(out.String())
	return nil
}

// putDump unpacks a dump into the data directory.
func (b *build) putDump(ctx context.Context) error {
	b.wb.Step("take " + b.dumpName())
	in, err := source.Open(b.wb, "dump", b.src.Dump)
	if err != nil {
		return fmt.Errorf("open dump: %w", err)
	}
	defer in.Close()
	content, err := source.Unpack(in)
	if err != nil {
		return source.UnpackError(b.dumpName(), err)
	}
	defer content.Close()
	return rootfs.Edit(ctx, b.wb.Root, func(r *rootfs.Root) error {
		data, err := r.Dir(b.e.d.Server.Data)
		if err != nil {
			return err
		}
		defer func() { _ = data.Close() }()
		out, err := foreign.Create(data, b.e.d.Build.DumpFile, 0o600)
		if err != nil {
			return err
		}
		from := &source.Reader{R: content}
		_, err = io.Copy(out, from)
		if from.Err != nil {
			err = source.UnpackError(b.dumpName(), from.Err)
		}
		return errors.Join(err, out.Chown(int(b.st.UID), int(b.st.GID)), out.Close())
	})
}

// dumpName is what people call the dump.
func (b *build) dumpName() string {
	if b.src.Dump == liveName {
		return "dump of the live database"
	}
	return path.Base(b.src.Dump)
}
