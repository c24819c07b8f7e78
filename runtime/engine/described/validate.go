package described

import (
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime/packed"
)

var (
	nameRE   = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)
	userRE   = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
	envRE    = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	socketRE = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,32}$`)
	extRE    = regexp.MustCompile(`^\.[a-z0-9]{1,16}$`)
)

const (
	defaultSettingName = `[a-z][a-z0-9_.-]*`
	defaultStopTimeout = 10 * time.Minute
	maxStopTimeout     = time.Hour
	maxItems           = 200 // of any list or table
)

// validate checks the description and fills in defaults.
func (d *Description) validate() error {
	for _, check := range []func() error{
		d.checkHead, d.checkHost, d.checkServer, d.checkSettings, d.checkBuild, d.checkReady, d.checkConnect, d.checkPassword, d.checkTemplates,
	} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (d *Description) checkHead() error {
	if d.Schema != Schema {
		return invalid("schema = %d: this ctrsnap knows %d", d.Schema, Schema)
	}
	if !nameRE.MatchString(d.Name) || d.Name == "default" { // what clients call the default engine
		return invalid("name %.80q: want lower case letters, digits and -", d.Name)
	}
	return nil
}

// checkRegexp checks an expression that may be "".
func checkRegexp(key, text string) error {
	if _, err := regexp.Compile(text); err != nil {
		return invalid("%s: %v", key, err)
	}
	return nil
}

func (d *Description) checkHost() error {
	if len(d.Host.Programs) == 0 {
		return invalid("host.programs: want the server's program at least")
	}
	for _, p := range slices.Concat(d.Host.Programs, d.Host.Optional) {
		if p == "" || strings.ContainsRune(p, 0) || (strings.Contains(p, "/") && !clean(p)) || p == "." || p == ".." {
			return invalid("host.programs: %.80q is neither a name nor an absolute path", p)
		}
	}
	for _, p := range d.Host.Files {
		if !clean(p) || p == "/" {
			return invalid("host.files: %.80q is not an absolute path", p)
		}
		for _, never := range []string{"/proc", "/sys", "/dev", "/root", "/home", "/run", "/tmp", "/var/run"} {
			if p == never || strings.HasPrefix(p, never+"/") {
				return invalid("host.files: %.80q is no part of a program", p)
			}
		}
	}
	return nil
}

func clean(p string) bool {
	return path.IsAbs(p) && path.Clean(p) == p && !strings.ContainsAny(p, "\x00\n")
}

func (d *Description) checkServer() error {
	s := &d.Server
	switch {
	case len(s.Args) == 0:
		return invalid("server.args: want the server's command")
	case !slices.Contains(d.Host.Programs, s.Args[0]):
		return invalid("server.args: the command %.80q is not in host.programs", s.Args[0])
	case !clean(s.Data) || s.Data == "/":
		return invalid("server.data %.80q: want an absolute path", s.Data)
	case !userRE.MatchString(s.User) || s.User == "root":
		return invalid("server.user %.80q: want the name of a user other than root", s.User)
	case s.Port < 0 || s.Port > 65535:
		return invalid("server.port %d", s.Port)
	case s.Socket != "" && !socketRE.MatchString(s.Socket):
		return invalid("server.socket %.80q: want a plain name", s.Socket)
	case s.Port == 0 && s.Socket == "":
		return invalid("server: neither port nor socket")
	case time.Duration(s.StopTimeout) > maxStopTimeout:
		return invalid("server.stop_timeout: at most %s", maxStopTimeout)
	}
	if s.StopSignal == "" {
		s.StopSignal = "TERM"
	}
	if s.StopTimeout == 0 {
		s.StopTimeout = Duration(defaultStopTimeout)
	}
	if unix.SignalNum("SIG"+s.StopSignal) == 0 {
		return invalid("server.stop_signal %.20q: want a name like TERM or INT", s.StopSignal)
	}
	for _, dir := range []string{"/proc", "/sys", "/dev", "/ctrsnap", "/etc", "/usr", "/bin", "/sbin", "/lib", "/lib64", "/tmp"} {
		if s.Data == dir || strings.HasPrefix(s.Data, dir+"/") {
			return invalid("server.data %s: not below %s", s.Data, dir)
		}
	}
	return nil
}

func (d *Description) checkSettings() error {
	s := &d.Settings
	if s.Name == "" {
		s.Name = defaultSettingName
	}
	if len(s.Args) == 0 && len(s.Build)+len(s.Clone) > 0 {
		return invalid("settings.args: missing")
	}
	if s.Connections != "" && len(s.Args) == 0 || s.Connections == "" && s.LeastConnections != 0 {
		return invalid("settings.connections: want it with settings.args, and least_connections beside it only")
	}
	return checkRegexp("settings.name", s.Name)
}

func (d *Description) checkBuild() error {
	b := &d.Build
	for _, steps := range [][]Step{b.Init, b.Login, b.Finish, b.Verify} {
		for _, s := range steps {
			if len(s.Args) == 0 {
				return invalid("build: a step without args")
			}
			if !slices.Contains([]string{"", "new", "dump", "dir"}, s.When) {
				return invalid("build: when = %.20q: want new, dump or dir", s.When)
			}
		}
	}
	for ext, s := range b.Scripts {
		if !extRE.MatchString(ext) || len(s.Args) == 0 || slices.Contains(packed.Extensions, ext) {
			return invalid("build.scripts: %.20q: want an extension with its dot, and args", ext)
		}
	}
	for key, what := range b.Env {
		if !envRE.MatchString(key) || !slices.Contains([]string{"user", "password", "database"}, what) {
			return invalid("build.env: %.40q = %.20q: want user, password or database", key, what)
		}
	}
	if b.DumpFile != "" && (path.Base(b.DumpFile) != b.DumpFile || !socketRE.MatchString(b.DumpFile)) {
		return invalid("build.dump_file: want a plain name")
	}
	if len(b.URL.Args) > 0 && len(b.URLSchemes) == 0 {
		return invalid("build.url_schemes: missing")
	}
	for _, p := range slices.Concat(b.DirMarkers, b.DirExclude, []string{b.DirPID}) {
		if _, err := path.Match(p, ""); err != nil || path.IsAbs(p) || strings.HasPrefix(path.Clean(p), "..") {
			return invalid("build: %.80q is no path below the data directory", p)
		}
	}
	return checkRegexp("build.dump_end", b.DumpEnd)
}

func (d *Description) checkReady() error {
	r, n := d.Ready, 0
	for _, set := range []bool{r.TCP, r.Socket, r.HTTP != "", len(r.Exec) > 0} {
		if set {
			n++
		}
	}
	switch {
	case n != 1:
		return invalid("ready: want one of tcp, socket, http and exec")
	case (r.TCP || r.HTTP != "") && d.Server.Port == 0:
		return invalid("ready: server.port is missing")
	case r.Socket && d.Server.Socket == "":
		return invalid("ready: server.socket is missing")
	case r.HTTP != "" && !strings.HasPrefix(r.HTTP, "/"):
		return invalid("ready.http: want a path that begins with /")
	}
	return nil
}

func (d *Description) checkConnect() error {
	c := d.Connect
	if len(c.URL) == 0 {
		return invalid("connect.url: missing")
	}
	for _, way := range slices.Concat(slices.Collect(maps.Keys(c.URL)), slices.Collect(maps.Keys(c.Env))) {
		if way != "tcp" && way != "socket" {
			return invalid("connect: unknown way %.20q: want tcp or socket", way)
		}
	}
	if c.URL["tcp"] != "" && d.Server.Port == 0 || c.URL["socket"] != "" && d.Server.Socket == "" {
		return invalid("connect.url: the server has no such address")
	}
	for _, vars := range []map[string]string{c.Env["tcp"], c.Env["socket"], d.Server.Env, d.Build.StepEnv, d.Client.Env, d.Password.Env} {
		for k := range vars {
			if !envRE.MatchString(k) {
				return invalid("invalid name of a variable: %.40q", k)
			}
		}
	}
	if len(d.Client.Args) > 0 && d.Client.Args[0] == "" {
		return invalid("client.args: empty")
	}
	if strings.Contains(d.Client.Local, "/") {
		return invalid("client.local: want the name of a program")
	}
	return nil
}

func (d *Description) checkPassword() error {
	p := d.Password
	switch {
	case len(p.Args) == 0 && len(p.Env) > 0, p.Stdin != "", p.When != "":
		return invalid("password: want args, and env with {{.NewPassword}}")
	case len(p.Args) > 0 && d.Build.User == "":
		return invalid("password: build.user is missing")
	}
	for _, arg := range p.Args {
		if strings.Contains(arg, ".NewPassword") || strings.Contains(arg, ".Password") {
			return invalid("password.args: secrets go by password.env: arguments are for all to see")
		}
	}
	return nil
}

// checkTemplates expands every template once.
func (d *Description) checkTemplates() error {
	s, b := d.Server, d.Build
	lists := [][]string{s.Args, s.BuildArgs, s.CloneArgs, s.Hot, s.Absent, s.Present, d.Settings.Args, d.Ready.Exec, {d.Ready.HTTP}, d.Client.Args}
	tables := []map[string]string{s.Env, b.StepEnv, d.Client.Env, d.Connect.URL, d.Connect.Env["tcp"], d.Connect.Env["socket"]}
	for _, steps := range [][]Step{b.Init, b.Login, b.Finish, b.Verify, {b.Dump, b.URL, b.Databases, d.Version, d.Password}, slices.Collect(maps.Values(b.Scripts))} {
		for _, step := range steps {
			lists = append(lists, step.Args, []string{step.Stdin})
			tables = append(tables, step.Env)
		}
	}
	for _, t := range tables {
		lists = append(lists, slices.Collect(maps.Values(t)))
	}
	for _, list := range lists {
		if len(list) > maxItems {
			return invalid("a list of more than %d", maxItems)
		}
		for _, text := range list {
			if strings.ContainsRune(text, 0) {
				return invalid("a zero byte in %.40q", text)
			}
			if err := checkTemplate(text); err != nil {
				return err
			}
		}
	}
	return nil
}
