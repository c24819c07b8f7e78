package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/engine/dial"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

func golden(t *testing.T, s state) snapshot.Golden {
	t.Helper()
	if s.BinDir == "" {
		s.BinDir, s.DataDir = "/bin", "/data"
	}
	text, err := json.Marshal(s)
	must(t, err)
	return snapshot.Golden{Name: "shop", Version: 1, Description: snapshot.Description{State: text}}
}

func TestSettings(t *testing.T) {
	g := golden(t, state{User: "u"})
	for _, name := range []string{"port", "DATA_DIRECTORY", "hba_file", "config_file", "listen_addresses", "a b", "", "x=y", "-c"} {
		if _, err := New().Server(g, map[string]string{name: "1"}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := New().Server(g, map[string]string{"work_mem": "1\n2"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("line feed: %v", err)
	}
	p, err := New().Server(g, map[string]string{"wal_level": "logical", "fsync": "on", "app.Name": "x"})
	must(t, err)
	for _, want := range []string{"wal_level=logical", "fsync=on", "app.name=x", "port=5432", "hba_file=" + hbaFile} {
		if !slices.Contains(p.Args, want) {
			t.Errorf("%s is missing in %v", want, p.Args)
		}
	}
	if slices.Contains(p.Args, "max_wal_senders=0") {
		t.Error("replication was asked for, but has no senders")
	}
}

func TestConnectEscapes(t *testing.T) {
	s := state{User: "u@/:", Passwd: `p%&?# '/`, DB: "d/b ?#"}
	c, err := New().Connect(golden(t, s), runtime.Endpoint{SocketDir: "/run/a b", Addr: netip.MustParseAddr("fd00::1")})
	must(t, err)
	for way, text := range c.URLs {
		u, err := url.Parse(text)
		must(t, err)
		pw, _ := u.User.Password()
		if u.User.Username() != s.User || pw != s.Passwd || u.Path != "/"+s.DB {
			t.Errorf("%s: %s", way, text)
		}
	}
	u, _ := url.Parse(c.URLs["tcp"])
	if u.Host != "[fd00::1]:5432" || u.Query().Get("sslmode") != "disable" {
		t.Error(c.URLs["tcp"])
	}
	if u, _ = url.Parse(c.URLs["socket"]); u.Query().Get("host") != "/run/a b" {
		t.Error(c.URLs["socket"])
	}
	if c.Env["tcp"]["PGHOST"] != "fd00::1" || c.Env["socket"]["PGPASSWORD"] != s.Passwd {
		t.Error(c.Env)
	}
}

func TestReadyDied(t *testing.T) {
	died := make(chan struct{})
	close(died)
	err := New().Ready(context.Background(), golden(t, state{User: "u"}), runtime.Endpoint{PID: os.Getpid()}, died)
	if !errors.Is(err, errDied) {
		t.Errorf("error %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err = New().Ready(ctx, golden(t, state{User: "u"}), runtime.Endpoint{PID: os.Getpid()}, nil)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestSocketLink(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Symlink("/run/other.sock", socketPath(dir)))
	if _, err := dial.Socket(context.Background(), socketPath(dir)); err == nil || !strings.Contains(err.Error(), "socket operation on non-socket") {
		t.Errorf("error %v", err)
	}
}

func TestHostNotFound(t *testing.T) {
	_, err := New().Host(context.Background(), t.TempDir())
	var hint interface{ Hint() string }
	if !errdefs.IsNotFound(err) || !errors.As(err, &hint) {
		t.Errorf("error %v", err)
	}
}

func TestFailures(t *testing.T) {
	for _, tt := range []struct {
		name, output string
		want         []failure
	}{
		{"psql", "psql:/a/1.sql:3: NOTICE:  x\npsql:/a:b/1.sql:12: ERROR:  no \"x\"\nDETAIL:  y\nLINE 1: z\nHINT:  of nothing\npsql:<stdin>:7: error: invalid command \\foo\n",
			[]failure{{12, "", `no "x"; DETAIL: y`}, {7, "", `invalid command \foo`}}},
		{"pg_restore", "pg_restore: while PROCESSING TOC:\npg_restore: from TOC entry 216; 1259 16394 TABLE shop a b\npg_restore: error: could not execute query: ERROR:  no\nDETAIL:  y\nCommand was: CREATE\n" +
			"pg_restore: error: COPY failed for table \"t\": ERROR:  x\n",
			[]failure{{0, "TABLE shop a b", "no; DETAIL: y"}, {0, "", `COPY failed for table "t": ERROR: x`}}},
		{"none", "psql: warning: x\nERROR\n", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, size := range []int{1, 7, 1 << 20} {
				var f failures
				for text := tt.output; text != ""; {
					n := min(size, len(text))
					f.Write([]byte(text[:n]))
					text = text[n:]
				}
				got, _ := f.all()
				if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(failure{})); diff != "" {
					t.Errorf("%d bytes at a time: %s", size, diff)
				}
			}
		})
	}
}

func FuzzFailures(f *testing.F) {
	f.Add("psql:a:3: ERROR:  x\nDETAIL:  y")
	f.Fuzz(func(t *testing.T, output string) {
		var all failures
		all.Write([]byte(output))
		list, more := all.all()
		if more < 0 || len(list) > maxFailures {
			t.Errorf("%d and %d more", len(list), more)
		}
		for _, one := range list {
			if strings.Contains(one.message, "\n") {
				t.Errorf("%q", one.message)
			}
		}
		toolMessage(output)
		serverMessage(output)
	})
}

func FuzzSniff(f *testing.F) {
	f.Add([]byte("PGDMP\x01"))
	f.Add([]byte("--\n-- PostgreSQL database dump\n--\n"))
	f.Add(packedSeed)
	f.Fuzz(func(t *testing.T, head []byte) {
		kind := sniff(head)
		if kind == formatPlain && slices.Contains(head, 0) {
			t.Error("binary taken for SQL")
		}
		byProgram(head)
		if _, c, err := unpack(strings.NewReader(string(head))); err == nil {
			c.Close()
		}
	})
}

var packedSeed = []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff, 1, 0, 0, 0xff, 0xff}
