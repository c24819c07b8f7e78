package described

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/engine/source"
	"github.com/ctrsnap/ctrsnap/runtime/packed"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// load brings in a dump by the server's client.
func (b *build) load(ctx context.Context) error {
	how := b.e.d.Build
	if b.src.Dump == "" || how.DumpFile != "" {
		return nil
	}
	b.loaded = true
	// A dump of one database does not say which: it is made first.
	if how.Database && b.st.DB == "" {
		b.st.DB = b.database()
	}
	if err := b.login(ctx); err != nil {
		return err
	}
	b.wb.Step("restore " + b.dumpName())
	err := b.feed(ctx, "dump", b.src.Dump, how.Dump, how.DumpEnd)
	if err != nil || !how.Restart {
		return err
	}
	if err := b.stop(ctx); err != nil {
		return err
	}
	return b.start(ctx)
}

// feed has a step take a file: at its path, or as its input, unpacked. end is a
// regular expression for the last line of a whole file.
func (b *build) feed(ctx context.Context, kind, name string, s Step, end string) error {
	people := name
	if name == liveName {
		people = b.dumpName()
	}
	fields := b.st.fields()
	fields.File = runtime.SourceDir + "/" + kind + "/" + name
	if byPath(s) {
		return b.toolError(ctx, people, b.step(ctx, fields, s, runtime.Stdio{}))
	}
	f, err := source.Open(b.wb, kind, name)
	if err != nil {
		return fmt.Errorf("open %s: %w", people, err)
	}
	defer f.Close()
	content, err := source.Unpack(f)
	if err != nil {
		return source.UnpackError(people, err)
	}
	defer content.Close()
	in := &source.Reader{R: content}
	tail := &lastLine{}
	err = b.step(ctx, fields, s, runtime.Stdio{Stdin: io.TeeReader(in, tail)})
	if in.Err != nil {
		return source.UnpackError(people, in.Err)
	}
	if err == nil && end != "" {
		if re, rerr := regexp.Compile(end); rerr != nil || !re.MatchString(tail.String()) {
			err = &runtime.SourceError{File: people, Message: "the dump is cut short: its last line is missing"}
		}
	}
	return b.toolError(ctx, people, err)
}

// byPath says whether a step takes the file by its path.
func byPath(s Step) bool {
	return slices.ContainsFunc(append([]string{s.Stdin}, s.Args...), func(a string) bool { return strings.Contains(a, ".File") })
}

// toolError tells a program that failed, which is an error in the sources, from a
// server that has died.
func (b *build) toolError(ctx context.Context, name string, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	var exit *runtime.ExitError
	select {
	case <-b.svc.Died():
		if errors.As(err, &exit) {
			return b.diedError(ctx)
		}
		return err
	default:
		return sourceError(name, err)
	}
}

// lastLine keeps the last line with text of what is written.
type lastLine struct{ buf []byte }

// Write never fails.
func (l *lastLine) Write(p []byte) (int, error) {
	const keep = 1 << 10
	l.buf = append(l.buf, p[max(0, len(p)-keep):]...)
	l.buf = l.buf[max(0, len(l.buf)-keep):]
	return len(p), nil
}

func (l *lastLine) String() string {
	lines := strings.Split(strings.TrimSpace(string(l.buf)), "\n")
	return lines[len(lines)-1]
}

// scripts runs files in order.
func (b *build) scripts(ctx context.Context, kind string, names []string) error {
	if kind == "init" {
		env, err := b.st.env(b.st.fields(), nil)
		if err == nil {
			err = source.LinkInit(ctx, b.svc, env, names)
		}
		if err != nil {
			return err
		}
	}
	for _, name := range names {
		b.wb.Step(kind + " " + name)
		s, shell, err := b.script(name)
		if err != nil {
			return err
		}
		if shell {
			err = b.shell(ctx, kind, name)
		} else {
			err = b.feed(ctx, kind, name, s, "")
		}
		if err != nil {
			return fmt.Errorf("run %s script: %w", kind, err)
		}
	}
	return nil
}

// script finds what runs a file.
func (b *build) script(name string) (s Step, shell bool, err error) {
	ext := path.Ext(name)
	if ext == ".sh" {
		return s, true, nil
	}
	packed := slices.Contains(packed.Extensions, ext)
	if packed {
		ext = path.Ext(strings.TrimSuffix(name, ext))
	}
	s, ok := b.e.d.Build.Scripts[ext]
	if !ok || packed && byPath(s) {
		known := []string{".sh"}
		for ext := range b.e.d.Build.Scripts {
			known = append(known, ext)
		}
		slices.Sort(known)
		return s, false, snapshot.WithHint(&runtime.SourceError{File: name, Message: "unknown kind of script"},
			"scripts of "+b.e.d.Name+" are "+strings.Join(known, " "))
	}
	return s, false, nil
}

// shell runs a shell script beside the server, with the variables of a client.
func (b *build) shell(ctx context.Context, kind, name string) error {
	info, err := os.Stat(b.hostPath(kind, name))
	if err != nil {
		return err
	}
	file := runtime.SourceDir + "/" + kind + "/" + name
	s := Step{Args: []string{file}, Env: b.e.d.Client.Env}
	if info.Mode()&0o111 == 0 {
		s.Args = []string{"/bin/sh", "-c", `if [ -x /bin/bash ]; then exec /bin/bash -e "$0"; fi; exec /bin/sh -e "$0"`, file}
	}
	p, err := b.st.process(b.st.fields(), s.Args, s.Env)
	if err != nil {
		return err
	}
	err = b.toolError(ctx, name, b.svc.Exec(ctx, p, runtime.Stdio{}))
	return source.HintCRLF(b.hostPath(kind, name), err)
}
