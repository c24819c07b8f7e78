package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func load(t *testing.T, text string) (Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ctrsnapd.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(path)
}

func TestEmptyFileIsTheDefault(t *testing.T) {
	got, err := load(t, "")
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.API.Socket = "/run/ctrsnap/ctrsnap.sock"
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestPrintedConfigLoadsAsItself(t *testing.T) {
	want, err := load(t, "root = '/srv/ctrsnap'\n[storage]\nsize = '20GiB'\n[clone]\nttl = '90m'\n[log]\nlevel = 'debug'\n")
	if err != nil {
		t.Fatal(err)
	}
	if want.Storage.Size != 20<<30 || time.Duration(want.Clone.TTL) != 90*time.Minute {
		t.Errorf("got size %d, ttl %d", want.Storage.Size, want.Clone.TTL)
	}
	text, err := want.Print()
	if err != nil {
		t.Fatal(err)
	}
	got, err := load(t, string(text))
	if err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestWrongFilesAreRefusedByName(t *testing.T) {
	for name, tt := range map[string]struct{ text, want string }{
		"unknown key":     {"[clone]\nttll = '1h'\n", "line 2: unknown key clone.ttll"},
		"unknown table":   {"[clones]\nttl = '1h'\n", "unknown key clones"},
		"not toml":        {"root /var\n", "line 1"},
		"duration":        {"[clone]\nttl = 'soon'\n", "clone.ttl"},
		"seconds":         {"[clone]\nttl = 3600\n", "clone.ttl: 3600 has no unit"},
		"part of an hour": {"[storage]\nverify = 1.5\n", "storage.verify: 1.5 has no unit"},
		"negative time":   {"[build]\ntimeout = '-1h'\n", "out of range"},
		"years":           {"[clone]\nmax_ttl = '1000000h'\n", "out of range"},
		"too many builds": {"[build]\nparallel = 1000000\n", "build.parallel"},
		"size":            {"[storage]\nsize = '20GB'\n", "20GB"},
		"relative root":   {"root = 'here'\n", "root: \"here\""},
		"subnet":          {"[network]\nsubnet = '10.0.0.0/33'\n", "network.subnet"},
		"ttl above max":   {"[clone]\nttl = '48h'\n", "clone.ttl"},
		"log format":      {"[log]\nformat = 'xml'\n", "log.format"},
		"no builds":       {"[build]\nparallel = 0\n", "build.parallel"},
		"negative makers": {"[pool]\nparallel = -1\n", "pool: size, max and parallel"},
		"no start":        {"[clone]\nstart_timeout = '0s'\n", "clone.start_timeout"},
		"no grace":        {"[clone]\nlease_grace = '0s'\n", "clone.lease_grace"},
		"IPv6 as subnet":  {"[network]\nsubnet = 'fd00::/64'\n", "network.subnet"},
		"tls files":       {"[api]\ntls_listen = ':7423'\ntls_cert = '/c'\ntls_key = 'k'\n", "api.tls_key"},
		"tls without CA":  {"[api]\ntls_listen = ':7423'\ntls_cert = '/c'\ntls_key = '/k'\n", "api.tls_client_ca"},
		"tls nowhere":     {"[api]\ntls_client_ca = '/ca'\n", "api.tls_listen"},
		"tls address":     {"[api]\ntls_listen = '7423'\n", "api.tls_listen"},
		"size overflow":   {"[storage]\nsize = '9999999999TiB'\n", "storage.size"},
		"negative amount": {"[storage]\nsize = '-1'\n", "storage.size"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := load(t, tt.text); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want it to say %q", err, tt.want)
			}
		})
	}
}

func TestMissingFileIsAnErrorOnlyIfNamed(t *testing.T) {
	if _, err := Load(filepath.Join(t.TempDir(), "none.toml")); err == nil {
		t.Error("a named file that is missing was accepted")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("root = '/x'\n[storage]\nsize='1GiB'\n"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		c := Default()
		if parse(b, &c) == nil {
			_ = c.validate()
		}
	})
}
