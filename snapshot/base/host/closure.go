package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// dlopened are libraries that the C library opens by name when it is asked
// for users, for hosts, or to end a thread. No ELF header names them.
var dlopened = []string{"libnss_files.so.2", "libnss_dns.so.2", "libgcc_s.so.1"}

// inspect queues an added file if it needs others.
func (f *finder) inspect(source, target string, explicit bool) error {
	parsed, err := f.parse(source)
	if err != nil || parsed == nil {
		return err
	}
	o := *parsed
	o.source, o.target, o.explicit = source, target, explicit
	o.required = (o.script && explicit) || (!o.script && o.isProgram())
	f.queue(&o)
	return nil
}

func (f *finder) queue(o *object) {
	f.queued[o.source] = o
	if o.required {
		f.programs = append(f.programs, o)
	} else {
		f.plugins = append(f.plugins, o)
	}
}

// parse remembers what it parsed: a library is a candidate many times.
func (f *finder) parse(source string) (*object, error) {
	if o, ok := f.parsed[source]; ok {
		return o, nil
	}
	o, err := parse(source)
	if err == nil {
		f.parsed[source] = o
	}
	return o, err
}

// resolve adds what the queued objects need, and what that needs.
func (f *finder) resolve(ctx context.Context) error {
	for len(f.programs)+len(f.plugins) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		from := &f.programs
		if len(*from) == 0 {
			from = &f.plugins
		}
		o := (*from)[0]
		*from = (*from)[1:]
		if err := f.addNeeds(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

func (f *finder) addNeeds(ctx context.Context, o *object) error {
	if o.script {
		return f.addInterpreters(ctx, o)
	}
	if o.interp != "" {
		if err := f.addLoader(o); err != nil {
			return err
		}
	}
	for _, name := range o.needed {
		err := f.addLibrary(o, name)
		if errdefs.IsNotFound(err) && !o.required {
			f.log.Warn("library not found: plugin will not load", "file", o.source, "library", name)
			continue
		}
		if err != nil {
			return err
		}
		if name == "libc.so.6" {
			f.addOpened(o)
		}
	}
	return nil
}

// addOpened adds the libraries that libc opens, those that there are.
func (f *finder) addOpened(o *object) {
	if f.opened[o.machine] {
		return
	}
	f.opened[o.machine] = true
	for _, name := range dlopened {
		optional := object{source: o.source, target: o.target, class: o.class, machine: o.machine}
		if err := f.addLibrary(&optional, name); err != nil {
			f.log.Debug("optional library left out", "library", name, "err", err)
		}
	}
}

// addLoader adds the program that the kernel starts in place of o. If the
// tree brings a loader of its own, it belongs to the tree's C library.
func (f *finder) addLoader(o *object) error {
	candidates := make([]string, 0, len(f.loader.libraryPath)+1)
	for _, dir := range f.loader.libraryPath {
		candidates = append(candidates, filepath.Join(dir, path.Base(o.interp)))
	}
	for _, candidate := range append(candidates, o.interp) {
		if source, ok := f.match(o, candidate); ok {
			return f.addObject(o, source, o.interp)
		}
	}
	if o.required {
		return missing(o, o.interp)
	}
	return nil
}

// addLibrary adds the library name that o needs.
func (f *finder) addLibrary(o *object, name string) error {
	if strings.Contains(name, "/") {
		name = origin(name, path.Dir(o.source))
		if source, ok := f.match(o, name); ok {
			return f.addObject(o, source, origin(name, path.Dir(o.target)))
		}
		return missing(o, name)
	}
	for _, p := range f.loader.places(o) {
		if source, ok := f.match(o, filepath.Join(p.host, name)); ok {
			return f.addObject(o, source, path.Join(p.target, name))
		}
	}
	return missing(o, name)
}

// match returns the file behind candidate if the loader would take it for o.
func (f *finder) match(o *object, candidate string) (string, bool) {
	source, known := f.resolved[candidate]
	if !known {
		source, _ = filepath.EvalSymlinks(candidate) // "" if it leads nowhere
		if source != "" && f.allowed(source) != nil {
			f.log.Debug("library passed over: not root's alone, or not for all users", "file", source)
			source = ""
		}
		f.resolved[candidate] = source
	}
	if source == "" {
		return "", false
	}
	lib, err := f.parse(source)
	if err != nil || lib == nil {
		return "", false
	}
	return source, lib.class == o.class && lib.machine == o.machine
}

// addObject adds a library or loader and queues it.
func (f *finder) addObject(by *object, source, target string) error {
	info, id, err := stat(source)
	if err != nil {
		return class(err)
	}
	if info.Mode().Perm()&0o004 == 0 {
		return notPublic(source)
	}
	added, err := f.put(entry{target: target, mode: info.Mode().Perm(), source: source, id: id})
	if err != nil {
		return err
	}
	if !added {
		f.promote(by, source)
		return nil
	}
	o := *f.parsed[source]
	o.source, o.target, o.required, o.loadedBy = source, f.normal(target), by.required, by
	f.queue(&o)
	return nil
}

// promote looks at an object again that was taken for a plugin, when a program
// turns out to need it.
func (f *finder) promote(by *object, source string) {
	o := f.queued[source]
	if o == nil || o.required || !by.required {
		return
	}
	promoted := *o
	promoted.required, promoted.loadedBy = true, by
	f.queue(&promoted)
}

// addInterpreters adds what runs a script.
func (f *finder) addInterpreters(ctx context.Context, o *object) error {
	wanted := []string{o.interp}
	if path.Base(o.interp) == "env" {
		if program, ok := lookPath(o.args); ok {
			wanted = append(wanted, program)
		}
	}
	for _, interp := range wanted {
		err := f.add(ctx, snapshot.HostFile{Source: interp})
		if errdefs.IsNotFound(err) && !o.required {
			f.log.Warn("interpreter not found: script will not run", "file", o.source, "interpreter", interp)
			continue
		}
		if err != nil {
			return fmt.Errorf("add %s, which runs %s: %w", interp, o.source, err)
		}
	}
	return nil
}

// lookPath finds the program that "env args" starts.
func lookPath(args string) (string, bool) {
	for word := range strings.FieldsSeq(args) {
		if strings.HasPrefix(word, "-") || strings.Contains(word, "=") {
			continue
		}
		for _, dir := range []string{"/usr/local/bin", "/usr/bin", "/bin"} {
			file := filepath.Join(dir, word)
			if _, _, err := stat(file); !errors.Is(err, fs.ErrNotExist) {
				return file, err == nil
			}
		}
		return "", false
	}
	return "", false
}

// missing is the error for a library that is not on the host.
func missing(o *object, name string) error {
	program := o
	for program.loadedBy != nil {
		program = program.loadedBy
	}
	which := program.source
	if program != o {
		which += " (by way of " + path.Base(o.source) + ")"
	}
	return snapshot.WithHint(
		fmt.Errorf("library %s that %s needs: %w", name, which, errdefs.ErrNotFound),
		"install the package that has it; 'ldd "+program.source+"' shows what the program needs")
}
