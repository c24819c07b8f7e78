package main_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/engine/enginetest"
)

// enginePrefixes are where the packages of engines are unpacked, or "" for the system's own.
// MySQL's and MariaDB's have files of the same names: there may be several, with colons between them.
func enginePrefixes() []string { return strings.Split(os.Getenv("CTRSNAP_TEST_ENGINES"), ":") }

// enginePrefix is the first of them that has a program.
func enginePrefix(program string) (prefix string, ok bool) {
	for _, prefix := range enginePrefixes() {
		for _, dir := range []string{"/usr/sbin/", "/usr/bin/"} {
			if _, err := os.Stat(prefix + dir + program); err == nil {
				return prefix, true
			}
		}
	}
	return "", false
}

// engineBase are the flags of the base, if the program is there.
func engineBase(t *testing.T, program string) []string {
	t.Helper()
	prefix, ok := enginePrefix(program)
	switch {
	case !ok:
		t.Skipf("no %s here: .ci/setup engines unpacks what this system's packages have", program)
	case prefix != "":
		return []string{"--from-host=" + prefix}
	}
	return []string{"--from-host"}
}

// whole says whether the suite runs in full.
func whole() bool { return honest() >= 100 }

// honest is how many clones are asked the moment that they are handed out.
func honest() int {
	if n, err := strconv.Atoi(os.Getenv("CTRSNAP_TEST_CLONES")); err == nil {
		return n
	}
	return 10
}

// subjects are the engines under test, by name.
var subjects = []struct {
	name, program string
	make          func(base []string) enginetest.Subject
}{
	{"postgres", postgresProgram(), postgresSubject},
	{"mariadb", "mariadbd", mariadbSubject},
	{"mysql", mysqlProgram, mysqlSubject},
	{"redis", "redis-server", redisSubject("redis")},
	{"valkey", "valkey-server", redisSubject("valkey")},
	{"etcd", "etcd", etcdSubject},
	{"nats", "nats-server", natsSubject},
}

// TestEngines runs the conformance suite against each engine.
func TestEngines(t *testing.T) {
	t.Parallel()
	d := newDaemon(t, "[pool]\nauto = false\n")
	for _, file := range []string{"etcd", "nats"} {
		d.run("engine", "add", describedExample(t, file))
	}
	t.Run("engine", func(t *testing.T) { testSubjects(t, d) })
	t.Run("two goldens for one job", func(t *testing.T) { testTwoGoldens(t, d) })
	t.Run("descriptions", func(t *testing.T) { testDescriptions(t, d) })
}

func testSubjects(t *testing.T, d *daemon) {
	for _, s := range subjects {
		if s.name == "postgres" && !whole() {
			continue // it has tests of its own
		}
		if lacks(t, s.program) {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			subject := s.make(engineBase(t, s.program))
			if !whole() { // make test has no time for all; make test-engines has
				subject.Sources, subject.Wrong = subject.Sources[:min(2, len(subject.Sources))], subject.Wrong[:1]
			}
			enginetest.Run(t, d.underTest(t), subject, honest())
		})
	}
}

func describedExample(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs("../../runtime/engine/described/examples/" + name + ".toml")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func (d *daemon) underTest(t *testing.T) enginetest.Daemon {
	t.Helper()
	return enginetest.Daemon{Dir: t.TempDir(), Command: func(ctx context.Context, args ...string) *exec.Cmd { return d.command(ctx, args...) }}
}

// optional are servers that few releases of Debian and Ubuntu have.
var optional = []string{mysqlProgram, "valkey-server"}

// mysqlProgram is one of MySQL alone: MariaDB's packages have a mysqld, too.
const mysqlProgram = "ibd2sdi"

// lacks says that a server is not here, and need not be.
func lacks(t *testing.T, program string) bool {
	t.Helper()
	_, ok := enginePrefix(program)
	if ok || !slices.Contains(optional, program) {
		return false
	}
	t.Logf("no %s here", program)
	return true
}

// flags are a source that needs no more than flags.
func flags(name string, args ...string) enginetest.Source {
	return enginetest.Source{Name: name, Flags: func(*testing.T, enginetest.Daemon) []string { return args }}
}

// script is a source of one file.
func script(name, flag, file, text string) enginetest.Source {
	return enginetest.Source{Name: name, Flags: func(t *testing.T, d enginetest.Daemon) []string {
		return []string{flag, d.File(t, file, text)}
	}}
}

func wrong(name, says string, make func(t *testing.T, d enginetest.Daemon) []string) enginetest.Wrong {
	return enginetest.Wrong{Name: name, Says: says, Flags: make}
}

func wrongFile(name, says, flag, file, text string) enginetest.Wrong {
	return wrong(name, says, script(name, flag, file, text).Flags)
}

// output is what a command in the first clone prints, as a file.
func output(t *testing.T, d enginetest.Daemon, engine, file string, command ...string) string {
	t.Helper()
	first := enginetest.Subject{Engine: engine}.First()
	return d.File(t, file, d.Run(t, append([]string{"exec", first, "--"}, command...)...)+"\n")
}

// copiedDir is a copy of a clone's data directory, whose server is shut down first.
func copiedDir(t *testing.T, d enginetest.Daemon, golden, data string, signal string) string {
	t.Helper()
	c := d.Clone(t, golden)
	dir := filepath.Join(t.TempDir(), "data")
	root := fmt.Sprintf("/proc/%d/root%s", c.PID, data)
	// The root filesystem goes with the server: it is held by its descriptor.
	held, err := os.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if signal != "" {
		server := serverOf(t, c.PID)
		kill := func(signal string, pid int) {
			if out, err := exec.Command("kill", "-"+signal, strconv.Itoa(pid)).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		kill("STOP", c.PID) // else it starts another one
		kill(signal, server)
		waitFor(t, "the server to end", func() bool { return zombie(server) })
	}
	if out, err := exec.Command("cp", "-a", fmt.Sprintf("/proc/%d/fd/%d/.", os.Getpid(), held.Fd()), dir).CombinedOutput(); err != nil {
		t.Fatalf("copy: %v: %s", err, out)
	}
	d.Run(t, "rm", c.ID)
	return dir
}

// serverOf is the process of a clone's server, the child of its first one.
func serverOf(t *testing.T, first int) int {
	t.Helper()
	if name := string(mustRead(t, fmt.Sprintf("/proc/%d/comm", first))); name != "ctrsnap-init\n" {
		return first // under runc
	}
	children := strings.Fields(string(mustRead(t, fmt.Sprintf("/proc/%d/task/%[1]d/children", first))))
	if len(children) != 1 {
		t.Fatalf("children of the first process: %v", children)
	}
	pid, err := strconv.Atoi(children[0])
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(b), ") ")
	return err != nil || strings.HasPrefix(rest, "Z")
}

// testTwoGoldens: one job gets clones of two engines, all or nothing.
func testTwoGoldens(t *testing.T, d *daemon) {
	d.run(append([]string{"golden", "build", "cache", "--engine", "redis", "--exec", "true"}, engineBase(t, "redis-server")...)...)
	d.run(append([]string{"golden", "build", "store", "--engine", "etcd", "--exec", "true"}, engineBase(t, "etcd")...)...)
	out := d.run("run", "store", "cache", "--", "env")
	for _, want := range []string{`(?m)^STORE_DATABASE_URL=http://`, `(?m)^STORE_ETCDCTL_ENDPOINTS=http://`, `(?m)^CACHE_DATABASE_URL=redis://default:`, `(?m)^CACHE_REDIS_URL=redis://`} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("no %s in:\n%s", want, out)
		}
	}
	r := d.try(nil, "run", "cache", "nothing", "--", "touch", filepath.Join(d.work, "ran"))
	if _, err := os.Stat(filepath.Join(d.work, "ran")); r.code != 125 || err == nil {
		t.Errorf("one golden is missing: exit code %d, started %t", r.code, err == nil)
	}
	// The first golden's clone can be had, the second's cannot.
	r = d.try(nil, "run", "cache", "store", "--connections", "20", "--", "touch", filepath.Join(d.work, "ran"))
	if _, err := os.Stat(filepath.Join(d.work, "ran")); r.code != 125 || err == nil || !strings.Contains(r.stderr, "engine etcd has no limit of connections") {
		t.Errorf("one clone is refused: exit code %d, started %t\n%s", r.code, err == nil, r.stderr)
	}
	if got := d.run("ls", "-o", "json"); strings.Contains(got, `"golden": "cache"`) {
		t.Errorf("a clone is left:\n%s", got)
	}
	for _, g := range []string{"cache", "store"} {
		d.run("golden", "rm", g)
	}
}

// testDescriptions: who may change engines, and what keeps them.
func testDescriptions(t *testing.T, d *daemon) {
	base := engineBase(t, "redis-server")
	text := func(arg string) string {
		return fmt.Sprintf("schema = 1\nname = \"kv\"\n[host]\nprograms = [\"redis-server\", \"redis-cli\"]\n[server]\nargs = [\"redis-server\", \"--port\", \"{{.Port}}\", \"--dir\", \"{{.Data}}\", \"--protected-mode\", \"no\", \"--loglevel\", %q]\nuser = \"redis\"\ndata = \"/data\"\nport = 7000\n[ready]\nexec = [\"redis-cli\", \"-p\", \"{{.Port}}\", \"-e\", \"ping\"]\n[connect.url]\ntcp = \"redis://{{.Host}}:{{.Port}}\"\n", arg) +
			"[build]\nuser = \"default\"\n[password]\nargs = [\"/bin/sh\", \"-c\", \"redis-cli -p {{.Port}} -e acl setuser {{.User}} resetpass \\\">$NEW\\\"\"]\nenv = { NEW = \"{{.NewPassword}}\" }\n"
	}
	kv := d.file("kv.toml", text("notice"))
	if got := d.run("engine", "add", kv); got != "kv" {
		t.Errorf("added %q", got)
	}
	d.run(append([]string{"golden", "build", "old", "--engine", "kv", "--exec", "true"}, base...)...)
	d.run("engine", "add", d.file("kv.toml", text("verbose")))
	d.run(append([]string{"golden", "build", "new", "--engine", "kv", "--exec", "true"}, base...)...)
	for golden, level := range map[string]string{"old": "notice", "new": "verbose"} {
		id := cloneJSON(t, d, golden).ID
		if got := d.run("exec", id, "--", "redis-cli", "-p", "7000", "config", "get", "loglevel"); !strings.HasSuffix(got, level) {
			t.Errorf("%s: %s, want %s", golden, got, level)
		}
		d.run("rm", id)
	}
	own := cloneJSON(t, d, "new", "--password") // by the description's command
	ping := func(password string) string {
		return d.run("exec", own.ID, "--env", "REDISCLI_AUTH="+password, "--", "redis-cli", "-p", "7000", "ping")
	}
	if yes, no := ping(own.Password), ping("golden's"); !strings.HasSuffix(yes, "PONG") || !strings.Contains(no, "NOAUTH") {
		t.Errorf("its own password: %q, another: %q", yes, no)
	}
	d.run("rm", own.ID)
	d.restart(15) // they are kept
	cloneJSON(t, d, "old", "--name", "kept")
	d.run("rm", "kept")
	wantError(t, d.try(nil, "engine", "rm", "kv"), 8, "goldens are of it")
	d.run("golden", "rm", "old")
	d.run("golden", "rm", "new")
	d.run("engine", "rm", "kv")
	wantError(t, d.try(nil, "engine", "inspect", "kv"), 3, "kv")
	wantError(t, d.try(nil, "engine", "rm", "redis"), 8, "built in")
	wantError(t, d.try(nil, "engine", "add", d.file("bad.toml", strings.Replace(text("x"), "schema = 1", "schema = 7", 1))), 2, "schema = 7")
	wantError(t, d.try(nil, "golden", "build", "x", "--engine", "kv", "--exec", "true"), 2, "unknown engine")
}

// within bounds a call to a clone.
func within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, 30*time.Second)
}
