package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

// sources are the flags that say what a golden is built from.
type sources struct {
	req          api.BuildRequest
	fromHost     optional
	archive      string
	init, mask   []string
	dumps        []string
	dir          string
	fromURL      string
	keys         []string
	passwordFile string
	env          pairs
	settings     pairs
}

const sourceCategory = "Sources of a golden"

// flags are those of all sources. set is what the flag of the golden's settings is
// called beside the verb's own.
func (s *sources) flags(set string) []cli.Flag {
	s.fromHost.check = isAbsolute
	list := func(name, usage string, dst *[]string) cli.Flag {
		return &cli.StringSliceFlag{Name: name, Usage: usage + " (repeatable)", Destination: dst, Category: sourceCategory}
	}
	text := func(name, usage string, dst *string) cli.Flag {
		return &cli.StringFlag{Name: name, Usage: usage, Destination: dst, Category: sourceCategory}
	}
	fromHost := optionalFlag("from-host", "base: the engine's programs of this host, below `PREFIX` if given (--from-host=PREFIX)", &s.fromHost)
	env := pairsFlag("env", "`K=V` for the build, as the engine's official image takes them (repeatable)", &s.env)
	fromHost.(*cli.GenericFlag).Category = sourceCategory
	settings := pairsFlag(set, "server setting `K=V` of the golden: each clone has it, unless asked for with another (repeatable)", &s.settings)
	env.(*cli.GenericFlag).Category = sourceCategory
	settings.(*cli.GenericFlag).Category = sourceCategory
	return []cli.Flag{
		fromHost,
		text("image", "base: an image `REF`, pulled", &s.req.Image),
		text("image-archive", "base: an image in `FILE` (docker save, OCI layout)", &s.archive),
		text("parent", "base: another `GOLDEN`", &s.req.Parent),
		list("init", "run `FILE|DIR`: .sh, or the engine's (.sql .sql.gz .sql.zst .sql.xz, .redis …); a directory's sorted by name as bytes, and they see all that is in it", &s.init),
		list("from-dump", "restore a dump from `FILE|DIR` (directory format); of several (roles, then a database) in the order given", &s.dumps),
		&cli.StringFlag{Name: "on-error", Usage: "what to do after an error of a dump: `stop|continue`; what fails is listed", DefaultText: "stop", Destination: &s.req.OnError, Category: sourceCategory, Validator: oneOf("stop", "continue")},
		text("from-url", "dump the live database at `URL`; env:NAME takes the URL from a variable; PGPASSWORD, or what the engine's clients read, serves a URL without password", &s.fromURL),
		text("from-dir", "copy the data directory `DIR` of a server that does not run", &s.dir),
		list("exec", "run `CMD` here by sh -c, with DATABASE_URL set", &s.req.Exec),
		list("mask", "run the script `FILE` last", &s.mask),
		list("key", "build only if no golden was built from these files' names and content, with the same sources and flags; `GLOB` knows **; a directory counts with all below", &s.keys),
		text("engine", "`ENGINE`: postgres (default), mariadb, redis …: see ctrsnap engine ls", &s.req.Engine),
		text("user", "`USER` that clones are handed out with", &s.req.User),
		text("password", "its `PASSWORD`", &s.req.Password),
		text("password-file", "`FILE` with its password", &s.passwordFile),
		text("login", "`ROLE` of the sources that clones are handed out with, in place of a superuser", &s.req.Login),
		text("database", "`DATABASE` that clones are handed out with", &s.req.Database),
		text("mode", "who may do what with a golden whose name is new, as `MODE` of a file: see golden access --help", &s.req.Mode),
		env,
		settings,
	}
}

func isAbsolute(path string) error {
	if !filepath.IsAbs(path) {
		return errors.New("want an absolute path")
	}
	return nil
}

// any says whether a flag was given.
func (s *sources) any() bool {
	return s.fromHost.set || s.archive != "" || len(s.dumps) > 0 || s.dir != "" || s.fromURL != "" || s.passwordFile != "" ||
		s.req.Image != "" || s.req.Parent != "" || s.req.Engine != "" || s.req.User != "" || s.req.Password != "" || s.req.Database != "" || s.req.Login != "" || s.req.OnError != "" ||
		len(s.init)+len(s.mask)+len(s.keys)+len(s.req.Exec)+len(s.env)+len(s.settings) > 0
}

// build is what goes to the daemon.
type build struct {
	req     api.BuildRequest
	parts   []client.Part
	dead    []string // links of a data directory that lead nowhere
	ignored []string // files of --init directories that are no scripts
	engine  func() (api.Engine, error)
}

// know tells what there is to know of the engine that a request is for.
type know func(api.BuildRequest) (api.Engine, error)

// knower asks the daemon, once: what a data directory is, a client has to know
// before it sends one.
func knower(ctx context.Context, d *client.Client) know {
	var once sync.Once
	var e api.Engine
	var err error
	return func(req api.BuildRequest) (api.Engine, error) {
		once.Do(func() {
			name := req.Engine
			if name == "" && req.Parent != "" {
				var g api.Golden
				if g, err = client.Do(ctx, d, api.GetGolden, api.GoldenArgs{Ref: req.Parent}); err != nil {
					return
				}
				name = g.Engine
			}
			if name == "" {
				name = "default"
			}
			e, err = engineNamed(ctx, d, name)
		})
		return e, err
	}
}

// resolve checks the flags and the files behind them, and computes the key.
func (s *sources) resolve(name string, getenv func(string) string, engine know) (build, error) {
	b := build{req: s.req}
	b.req.Name, b.req.FromHost, b.req.Prefix, b.req.Env, b.req.Settings = name, s.fromHost.set, s.fromHost.value, s.env, s.settings
	b.req.Archive = s.archive != ""
	if err := s.exclusive(); err != nil {
		return b, err
	}
	b.engine = func() (api.Engine, error) { return engine(b.req) }
	for _, step := range []func(*build, func(string) string) error{s.addPassword, s.addURL, s.addFiles, s.addKey} {
		if err := step(&b, getenv); err != nil {
			return b, err
		}
	}
	return b, nil
}

func (s *sources) exclusive() error {
	groups := []map[string]bool{
		{"--from-host": s.fromHost.set, "--image": s.req.Image != "", "--image-archive": s.archive != "", "--parent": s.req.Parent != ""},
		{"--from-dump": len(s.dumps) > 0, "--from-url": s.fromURL != "", "--from-dir": s.dir != ""},
		{"--password": s.req.Password != "", "--password-file": s.passwordFile != ""},
		{"--parent": s.req.Parent != "", "--from-dir": s.dir != ""},
	}
	for _, g := range groups {
		var set []string
		for flag, given := range g {
			if given {
				set = append(set, flag)
			}
		}
		if slices.Sort(set); len(set) > 1 {
			return usagef("use one of them").of("%s exclude each other", strings.Join(set, " and "))
		}
	}
	return nil
}

func (s *sources) addPassword(b *build, _ func(string) string) error {
	if s.passwordFile == "" {
		return nil
	}
	p, err := os.ReadFile(s.passwordFile)
	if err != nil {
		return badSource("--password-file", err)
	}
	b.req.Password = strings.TrimRight(string(p), "\r\n")
	if b.req.Password == "" {
		return usagef("its first line is the password").of("--password-file %s is empty", s.passwordFile)
	}
	return nil
}

// addURL takes the URL, and its password if it has none, from the environment,
// so that neither has to be in an argument list, which every user can read.
func (s *sources) addURL(b *build, getenv func(string) string) error {
	if s.fromURL == "" {
		return nil
	}
	raw := s.fromURL
	if name, ok := strings.CutPrefix(raw, "env:"); ok {
		if raw = getenv(name); raw == "" {
			return usagef("export %s=postgres://USER:PASSWORD@HOST/DATABASE", name).of("--from-url: %s is not in the environment", name)
		}
	}
	u, err := api.ParseURL(raw)
	if err != nil || u.Scheme == "" {
		return usagef("an example: postgres://USER@HOST:5432/DATABASE").of("--from-url: not a URL") // never print it: it may hold a password
	}
	if strings.Contains(u.Host, ",") {
		u.Host = firstHost(u.Host)
	}
	if _, has := u.User.Password(); !has {
		e, err := b.engine()
		if err != nil {
			return err
		}
		password := getenv(e.PasswordEnv)
		if password == "" && e.PasswordEnv == "PGPASSWORD" && !u.Query().Has("password") {
			password = passFile(u, getenv)
		}
		if password != "" {
			u.User = url.UserPassword(u.User.Username(), password)
		}
	}
	b.req.FromURL = u.String()
	return nil
}

// firstHost is the first of several hosts that takes connections, or the first: the daemon is told one. See
// https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-MULTIPLE-HOSTS.
func firstHost(hosts string) string {
	all := strings.Split(hosts, ",")
	for _, host := range all {
		at := url.URL{Host: host}
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(at.Hostname(), cmp.Or(at.Port(), "5432")), 5*time.Second)
		if err == nil {
			_ = conn.Close() // nothing was sent
			return host
		}
	}
	return all[0]
}

// passFile looks a password up as libpq does, in a file that nobody else may read: the daemon cannot see it. See https://www.postgresql.org/docs/current/libpq-pgpass.html.
func passFile(u *url.URL, getenv func(string) string) string {
	name := getenv("PGPASSFILE")
	if name == "" {
		name = filepath.Join(getenv("HOME"), ".pgpass")
	}
	if info, err := os.Stat(name); err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return ""
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	get := func(value, parameter, otherwise string) string {
		return cmp.Or(u.Query().Get(parameter), value, otherwise)
	}
	user := get(u.User.Username(), "user", "")
	want := []string{get(u.Hostname(), "host", "localhost"), get(u.Port(), "port", "5432"), get(strings.TrimPrefix(u.Path, "/"), "dbname", user), user}
	for line := range strings.Lines(string(text)) {
		fields := passFields(strings.TrimRight(line, "\r\n"))
		if len(fields) == 5 && slices.EqualFunc(fields[:4], want, func(has, want string) bool { return has == "*" || has == want }) {
			return fields[4]
		}
	}
	return ""
}

// passFields divides a line at its colons; a backslash stands before those that do not divide.
func passFields(line string) (fields []string) {
	var field strings.Builder
	for i := 0; i < len(line); i++ {
		switch {
		case line[i] == '\\' && i+1 < len(line):
			i++
			field.WriteByte(line[i])
		case line[i] == ':':
			fields = append(fields, field.String())
			field.Reset()
		default:
			field.WriteByte(line[i])
		}
	}
	return append(fields, field.String())
}

func (s *sources) addKey(b *build, _ func(string) string) error {
	if len(s.keys) == 0 {
		return nil
	}
	var err error
	if b.req.Key, err = keyOf(s.keys); err != nil {
		return err
	}
	b.req.KeyParts, err = partDigests(b.parts)
	return err
}

func (s *sources) addFiles(b *build, _ func(string) string) error {
	if s.archive != "" {
		if err := b.addFile(api.PartArchive, "--image-archive", s.archive); err != nil {
			return err
		}
	}
	for _, path := range s.init {
		if err := b.addInit(path); err != nil {
			return err
		}
	}
	for _, path := range s.dumps {
		if err := b.addDump(path); err != nil {
			return err
		}
	}
	if s.dir != "" {
		e, err := b.engine()
		if err == nil {
			err = checkDataDir(e, s.dir)
		}
		if err != nil {
			return err
		}
		b.dead = deadLinks(e, s.dir)
		b.addTar(api.PartDirTar, s.dir, e)
	}
	for _, path := range s.mask {
		if err := b.addFile(api.PartMask, "--mask", path); err != nil {
			return err
		}
	}
	return nil
}

// addFile adds a file that must be there now, so that nobody waits for a build
// that cannot succeed.
func (b *build) addFile(kind, flag, path string) error {
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		return usagef("give a file").of("%s: %s is a directory", flag, path)
	}
	if err != nil {
		return badSource(flag, err)
	}
	f, err := os.Open(path)
	if err != nil {
		return badSource(flag, err)
	}
	f.Close()
	b.parts = append(b.parts, client.Part{Kind: kind, Name: filepath.Base(path), Open: func() (io.ReadCloser, error) { return os.Open(path) }})
	return nil
}

const fileHint usageHint = "is the path right? it is relative to the current directory"

func badSource(flag string, err error) error { return fileHint.of("%s: %s", flag, reason(err)) }

// reason words an error of the filesystem as "PATH: what".
func reason(err error) string {
	var p *os.PathError
	if errors.As(err, &p) {
		return fmt.Sprintf("%s: %v", p.Path, p.Err)
	}
	return err.Error()
}

// cause returns what went wrong with a file, without its path.
func cause(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// scripts are the names of files that initialise a database: those that the
// engine knows, and all but shell scripts packed, too.
func (b *build) scripts() ([]string, error) {
	e, err := b.engine()
	var all []string
	for _, ext := range e.Scripts {
		all = append(all, ext)
		if ext != ".sh" {
			all = append(all, ext+".gz", ext+".zst", ext+".xz")
		}
	}
	return all, err
}

func isScript(name string, scripts []string) bool {
	return slices.ContainsFunc(scripts, func(ext string) bool { return strings.HasSuffix(name, ext) })
}

// addInit adds a script, or those of a directory in the order of the official
// images: sorted by name, byte by byte (locale C).
func (b *build) addInit(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return badSource("--init", err)
	}
	scripts, err := b.scripts()
	if err != nil {
		return err
	}
	if !info.IsDir() {
		if !isScript(path, scripts) {
			return usagef("use one of %s", strings.Join(scripts, " ")).of("--init: %s is no script", path)
		}
		if info.Mode().IsRegular() && info.Mode()&0o100 != 0 { // which a file alone would lose
			b.addInitTar(path)
			return nil
		}
		return b.addFile(api.PartInit, "--init", path)
	}
	entries, err := os.ReadDir(path) // sorted
	if err != nil {
		return badSource("--init", err)
	}
	found := false
	for _, e := range entries {
		file := filepath.Join(path, e.Name())
		info, err := os.Stat(file)
		switch {
		case err != nil || info.IsDir() || strings.HasPrefix(e.Name(), "."): // as the official images pass over
		case isScript(e.Name(), scripts):
			found = true
		default:
			b.ignored = append(b.ignored, file)
		}
	}
	if !found {
		return usagef("it needs files named %s", strings.Join(scripts, " ")).of("--init: no script in directory %s", path)
	}
	b.addInitTar(path)
	return nil
}

// addInitTar adds a directory with scripts, or one script with its mode.
func (b *build) addInitTar(path string) {
	abs, err := filepath.Abs(path)
	if err != nil {
		abs = path
	}
	b.parts = append(b.parts, client.Part{
		Kind: api.PartInitTar, Name: filepath.Base(abs) + ".tar", Open: func() (io.ReadCloser, error) { return tarInit(path), nil },
	})
}

func (b *build) addDump(path string) error {
	info, err := os.Stat(path)
	if err != nil || !info.IsDir() {
		return b.addFile(api.PartDump, "--from-dump", path)
	}
	e, err := b.engine()
	if err != nil {
		return err
	}
	if e.DumpDir == "" {
		return usagef("give a file; --from-dir takes a data directory").of("--from-dump: %s is a directory", path)
	}
	if _, err := os.Stat(filepath.Join(path, e.DumpDir)); err != nil {
		return usagef("make one with pg_dump --format directory; --from-dir takes a data directory").of("--from-dump: directory %s is no dump: it has no %s", path, e.DumpDir)
	}
	b.addTar(api.PartDumpTar, path, api.Engine{})
	return nil
}

func (b *build) addTar(kind, dir string, e api.Engine) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		abs = dir
	}
	b.parts = append(b.parts, client.Part{Kind: kind, Name: filepath.Base(abs) + ".tar", Open: func() (io.ReadCloser, error) { return tarDir(dir, e), nil }})
}
