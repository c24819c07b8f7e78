package postgres

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
)

// show asks for settings as "a=1 b=2".
func show(ask func(string) string, names ...string) string {
	return ask("SELECT string_agg(name || '=' || current_setting(name), ' ' ORDER BY ord) FROM unnest(ARRAY['" +
		strings.Join(names, "','") + "']) WITH ORDINALITY u(name, ord)")
}

// What the golden's own files set goes over the engine's settings; what a clone stands on does not give way, and is told.
func TestOwnSettings(t *testing.T) {
	w := newBench(t)
	g, err := w.build(runtime.Sources{Init: []string{
		w.put("init", "1.sql", "ALTER SYSTEM SET work_mem = '11MB'; ALTER SYSTEM SET max_connections = 321; ALTER SYSTEM SET wal_level = 'logical';"+
			"ALTER SYSTEM SET autovacuum_naptime = '3s'; ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements';"+
			"ALTER SYSTEM SET archive_mode = on; ALTER SYSTEM SET fsync = 'on'; ALTER SYSTEM SET ssl = on; ALTER SYSTEM SET port = 6000"),
		w.put("init", "2.sh", `mkdir "$PGDATA/conf.d"; echo "include_dir 'conf.d'" >>"$PGDATA/postgresql.conf"
			echo "shared_buffers = '72MB'" >"$PGDATA/conf.d/a.conf"; echo "max_wal_size = 1GB" >>"$PGDATA/conf.d/a.conf"`),
	}})
	must(t, err)
	c, ask := w.clone(g, map[string]string{"max_connections": "77"})
	const want = "work_mem=11MB max_connections=77 wal_level=logical max_wal_senders=10 wal_writer_delay=200ms autovacuum_naptime=3s " +
		"shared_preload_libraries=pg_stat_statements shared_buffers=72MB max_wal_size=512MB min_wal_size=32MB archive_mode=off fsync=off ssl=on synchronous_commit=on"
	var names []string
	for _, kv := range strings.Fields(want) {
		name, _, _ := strings.Cut(kv, "=")
		names = append(names, name)
	}
	if got := show(ask, names...); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	told := strings.Join(w.warnings, "\n")
	for _, lost := range []string{"archive_mode=on (clones: off)", "fsync=on (clones: off)", "port=6000 (clones: 5432)"} {
		if !strings.Contains(told, lost) {
			t.Errorf("%s was not told: %s", lost, told)
		}
	}
	if strings.Contains(told, "work_mem") || strings.Contains(told, "wal_level") {
		t.Error("told of what clones have:", told)
	}
	if got := psqlURL(t, strings.Replace(c.URLs["tcp"], "sslmode=disable", "sslmode=require", 1), "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"); got != "t" {
		t.Error("not encrypted:", got)
	}
	list, err := New().Settings(g, nil)
	must(t, err)
	for _, s := range list {
		if s.Name == "wal_level" && (s.Value != "logical" || s.From != runtime.SettingGolden) {
			t.Error(s)
		}
	}
}

// ALTER SYSTEM in a clone counts from its next start on.
func TestAlterSystemInClone(t *testing.T) {
	w := newBench(t)
	g, err := w.build(runtime.Sources{})
	must(t, err)
	_, ask := w.clone(g, nil)
	ask("ALTER SYSTEM SET wal_level = 'replica'")
	ask("ALTER SYSTEM SET shared_buffers = '16MB'")
	must(t, w.stopClones())
	_, ask = w.clone(g, nil)
	if got := show(ask, "wal_level", "shared_buffers", "wal_buffers"); got != "wal_level=replica shared_buffers=16MB wal_buffers=256kB" {
		t.Error(got)
	}
	_, err = New().Server(g, map[string]string{"ssl_cert_file": "x"})
	must(t, err)
}

// A server that will not start is found by the build.
func TestOwnSettingsThatDoNotStart(t *testing.T) {
	for text, want := range map[string]string{
		"ALTER SYSTEM SET shared_preload_libraries = 'nowhere'":              "nowhere",
		"COPY (SELECT 'work_mem = many') TO PROGRAM 'cat >>postgresql.conf'": "work_mem",
		"COPY (SELECT 'nothing = 1') TO PROGRAM 'cat >>postgresql.conf'":     "nothing",
	} {
		w := newBench(t)
		_, err := w.build(runtime.Sources{Init: []string{w.put("init", "1.sql", text)}})
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// Who follows the WAL is not kept waiting by settings that let an idle clone sleep.
func TestFollowing(t *testing.T) {
	for _, c := range []struct {
		own, clone map[string]string
		want       string
	}{
		{nil, nil, "10s"},
		{nil, map[string]string{"WAL_LEVEL": "logical"}, "200ms"},
		{map[string]string{"wal_level": "replica"}, nil, "200ms"},
		{map[string]string{"wal_level": "replica", "wal_writer_delay": "5s"}, nil, "5s"},
		{map[string]string{"wal_level": "replica"}, map[string]string{"wal_level": "minimal"}, "10s"},
		{nil, map[string]string{"wal_level": "logical", "wal_writer_delay": "1s"}, "1s"},
	} {
		if got := (state{Own: c.own}).merged(nil, c.clone)["wal_writer_delay"]; got != c.want {
			t.Errorf("%v: %s, want %s", c, got, c.want)
		}
	}
	if got := (state{Own: map[string]string{"autovacuum_vacuum_threshold": "1"}}).merged(nil, nil)["autovacuum_naptime"]; got != "1min" {
		t.Error("who tunes autovacuum waits for it:", got)
	}
}
