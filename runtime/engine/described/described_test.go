package described

import (
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

const small = `schema = 1
name = "kv"
[host]
programs = ["kvd", "kvctl"]
[server]
args = ["kvd", "--dir={{.Data}}", "--listen={{.Host}}:{{.Port}}"]
clone_args = ["--no-sync"]
user = "kv"
data = "/var/lib/kv"
port = 4000
socket = "kv.sock"
[settings]
args = ["--{{.Name}}={{.Value}}"]
reserved = ["dir", "listen-on"]
clone = { cache = "8M" }
[build]
user = "kv"
[build.scripts.".kv"]
args = ["kvctl", "load", "{{.File}}"]
[ready]
tcp = true
[connect.url]
tcp = "kv://{{escape .User}}:{{escape .Password}}@{{.Host}}:{{.Port}}"
socket = "kv+unix://{{.Socket}}"
[connect.env.tcp]
KV_HOST = "{{.Host}}"
[client]
args = ["kvctl", "-s", "{{.Socket}}"]
`

func mustParse(t *testing.T, text string) *Engine {
	t.Helper()
	e, err := New([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func golden(t *testing.T, e *Engine) snapshot.Golden {
	t.Helper()
	text, err := json.Marshal(state{
		Description: e.text, Digest: e.digest, Programs: map[string]string{"kvd": "/usr/sbin/kvd", "kvctl": "/usr/bin/kvctl"},
		UID: 7, GID: 8, User: "me", Passwd: "p/w",
	})
	if err != nil {
		t.Fatal(err)
	}
	return snapshot.Golden{Name: "store", Version: 1, Description: snapshot.Description{Engine: "kv", State: text, Settings: map[string]string{"level": "2"}}}
}

func TestServer(t *testing.T) {
	e := mustParse(t, small)
	p, err := e.Server(golden(t, e), map[string]string{"cache": "1M"})
	if err != nil {
		t.Fatal(err)
	}
	want := "/usr/sbin/kvd --dir=/var/lib/kv --listen=0.0.0.0:4000 --no-sync --cache=1M --level=2"
	if got := strings.Join(p.Args, " "); got != want || p.UID != 7 || p.GID != 8 {
		t.Errorf("%q as %d:%d, want %q", got, p.UID, p.GID, want)
	}
	for _, bad := range []map[string]string{{"dir": "/"}, {"listen_on": "x"}, {"a b": "c"}, {"x": "a\nb"}, {"-x": "y"}} {
		if _, err := e.Server(golden(t, e), bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("settings %v: %v", bad, err)
		}
	}
}

func TestConnect(t *testing.T) {
	e := mustParse(t, small)
	g := golden(t, e)
	c, err := e.Connect(g, runtime.Endpoint{SocketDir: "/run/x", Addr: netip.MustParseAddr("10.0.0.9"), Password: "own"})
	if err != nil {
		t.Fatal(err)
	}
	if c.URLs["tcp"] != "kv://me:own@10.0.0.9:4000" || c.URLs["socket"] != "kv+unix:///run/x/kv.sock" || c.Env["tcp"]["KV_HOST"] != "10.0.0.9" {
		t.Errorf("%+v", c)
	}
	published := runtime.Endpoint{Addr: netip.MustParseAddr("127.0.0.1"), Port: 31000}
	if c, err := e.Connect(g, published); err != nil || c.URLs["tcp"] != "kv://me:p%2Fw@127.0.0.1:31000" || c.Port != 31000 {
		t.Errorf("by a port of the host: %+v, %v", c, err)
	}
	c, err = e.Connect(g, runtime.Endpoint{SocketDir: "/run/x"})
	if err != nil || c.URLs["tcp"] != "" || c.Host != "" {
		t.Errorf("without a network: %+v, %v", c, err)
	}
}

// What clones are told of passwords and connections is in the description, or refused.
func TestPasswordAndConnections(t *testing.T) {
	plain := mustParse(t, small)
	if plain.SetsPasswords(golden(t, plain)) {
		t.Error("passwords without a way to set them")
	}
	if _, err := plain.LimitConnections(20); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a limit of connections: %v", err)
	}
	more := strings.Replace(small, "[settings]\n", "[settings]\nconnections = \"max-clients\"\nleast_connections = 4\n", 1) +
		"env = { KV_PASSWORD = \"{{.Password}}\" }\n[password]\nargs = [\"kvctl\", \"passwd\", \"{{.User}}\"]\nenv = { NEW = \"{{.NewPassword}}\" }\n"
	e := mustParse(t, more)
	g := golden(t, e)
	if got, err := e.LimitConnections(4); err != nil || got["max-clients"] != "4" {
		t.Errorf("a limit of connections: %v, %v", got, err)
	}
	if _, err := e.LimitConnections(3); !errdefs.IsInvalidArgument(err) {
		t.Errorf("too low a limit: %v", err)
	}
	if p, err := e.Client(g, "own", []string{"get"}); err != nil || !slices.Contains(p.Env, "KV_PASSWORD=own") {
		t.Errorf("the client has %q, %v", p.Env, err)
	}
	for code, ok := range map[int]func(error) bool{0: func(err error) bool { return err == nil }, 1: errdefs.IsFailedPrecondition} {
		var ran runtime.Process
		s, err := e.OpenPassword(t.Context(), g, runtime.Endpoint{Exec: func(_ context.Context, p runtime.Process) (int, error) {
			ran = p
			return code, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		password, _ := e.NewPassword() // never fails
		if err := s.Set(t.Context(), password); !ok(err) || !slices.Contains(ran.Env, "NEW="+password.Text) || strings.Join(ran.Args, " ") != "/usr/bin/kvctl passwd me" {
			t.Errorf("exit code %d: %v; ran %q with %q", code, err, ran.Args, ran.Env)
		}
	}
	for _, bad := range []string{
		strings.Replace(more, `"{{.User}}"]`, `"{{.NewPassword}}"]`, 1), // for all to see
		strings.Replace(more, "[build]\nuser = \"kv\"\n", "[build]\n", 1),
		strings.Replace(more, "connections = \"max-clients\"\n", "", 1),
	} {
		if _, err := Parse([]byte(bad)); bad == more || !errdefs.IsInvalidArgument(err) {
			t.Errorf("accepted: %v\n%s", err, bad)
		}
	}
}

// A golden is served by the description that it was built by, whatever was added since.
func TestOlderDescription(t *testing.T) {
	old := mustParse(t, small)
	g := golden(t, old)
	now := mustParse(t, strings.Replace(small, "--no-sync", "--fast", 1))
	for range 2 {
		p, err := now.Server(g, nil)
		if err != nil || !strings.Contains(strings.Join(p.Args, " "), "--no-sync") {
			t.Errorf("%v, %v", p.Args, err)
		}
	}
	g.State = []byte(`{"description": "schema = 9", "digest": "x"}`)
	if _, err := now.Server(g, nil); !errdefs.IsDataLoss(err) {
		t.Errorf("a damaged description: %v", err)
	}
}

// Whoever may add a description says what runs in containers, and nothing else.
func TestWrongDescriptions(t *testing.T) {
	for _, c := range []struct{ what, old, new string }{
		{"schema", "schema = 1", "schema = 2"},
		{"name", `name = "kv"`, `name = "../kv"`},
		{"unknown key", "schema = 1", "schema = 1\nshell = 'rm'"},
		{"syntax", "schema = 1", "schema = ["},
		{"program", `args = ["kvd",`, `args = ["/bin/sh",`},
		{"no program", `["kvd", "kvctl"]`, `[]`},
		{"program path", `["kvd", "kvctl"]`, `["kvd", "../kvctl"]`},
		{"host file", `["kvd", "kvctl"]`, "[\"kvd\", \"kvctl\"]\nfiles = [\"/root/.ssh\"]"},
		{"host file above", `["kvd", "kvctl"]`, "[\"kvd\", \"kvctl\"]\nfiles = [\"/usr/../etc\"]"},
		{"root", `user = "kv"` + "\ndata", "user = \"root\"\ndata"},
		{"data", `/var/lib/kv`, `/usr/lib`},
		{"data is ours", `/var/lib/kv`, `/ctrsnap/x`},
		{"port", "port = 4000", "port = 70000"},
		{"socket", `"kv.sock"`, `"../kv.sock"`},
		{"ready twice", "tcp = true", "tcp = true\nsocket = true"},
		{"ready never", "tcp = true", ""},
		{"http path", "tcp = true", "http = 'x'"},
		{"field", "{{.Data}}", "{{.Secret}}"},
		{"loop", "{{.Data}}", "{{range .Data}}{{end}}"},
		{"function", "{{.Data}}", `{{printf "%1000000000d" 1}}`},
		{"definition", "{{.Data}}", `{{define "x"}}{{end}}`},
		{"recursion", "{{.Data}}", `{{template "x"}}`},
		{"variable", "{{.Data}}", `{{$x := .Data}}{{$x}}`},
		{"open action", "{{.Data}}", `{{.Data`},
		{"way", "[connect.url]", "[connect.url]\nmail = 'x'"},
		{"env name", "KV_HOST", `"KV HOST"`},
		{"setting name", `reserved =`, "name = '('\nreserved ="},
		{"signal", "port = 4000", "port = 4000\nstop_signal = 'NOPE'"},
		{"timeout", "port = 4000", "port = 4000\nstop_timeout = '9000h'"},
		{"extension", `".kv"`, `"kv"`},
		{"zero byte", "--no-sync", `a\u0000b`},
		{"too long", "schema = 1", "# " + strings.Repeat("x", maxFile) + "\nschema = 1"},
	} {
		text := strings.Replace(small, c.old, c.new, 1)
		if text == small {
			t.Fatalf("%s: %q is not there", c.what, c.old)
		}
		if _, err := Parse([]byte(text)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}

func TestHost(t *testing.T) {
	dir := t.TempDir()
	for _, p := range []string{"usr/sbin/kvd", "usr/bin/kvctl"} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(p)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, p), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	e := mustParse(t, small)
	tree, err := e.Host(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if f := tree.Files[0]; f.Source != dir+"/usr/sbin/kvd" || f.Target != "/usr/sbin/kvd" {
		t.Errorf("%+v", f)
	}
	os.Remove(filepath.Join(dir, "usr/bin/kvctl"))
	if _, err := e.Host(t.Context(), dir); !errdefs.IsNotFound(err) {
		t.Errorf("a program that is missing: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(small))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := Parse(text)
		if err != nil {
			return
		}
		e := &Engine{d: d, digest: "x"}
		g := snapshot.Golden{Description: snapshot.Description{State: []byte(`{}`)}}
		if _, err := e.Server(g, nil); err != nil {
			t.Errorf("accepted, but has no server: %v", err)
		}
		if _, err := e.Connect(g, runtime.Endpoint{SocketDir: "/x", Addr: netip.MustParseAddr("10.0.0.1")}); err != nil {
			t.Errorf("accepted, but cannot be connected to: %v", err)
		}
	})
}

func TestExamples(t *testing.T) {
	files, err := filepath.Glob("examples/*.toml")
	if err != nil || len(files) < 3 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if e, err := New(text); err != nil || e.Name()+".toml" != filepath.Base(f) {
			t.Errorf("%s: %v", f, err)
		}
	}
}
