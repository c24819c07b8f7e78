package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// extensions are those that Debian packages, each with SQL for a golden, and a question to
// its clones.
var extensions = []struct{ name, library, sql, ask, want string }{
	{"pg_cron", "pg_cron", "CREATE EXTENSION pg_cron; CREATE TABLE ticks (t timestamptz DEFAULT now()); SELECT cron.schedule('tick', '* * * * *', 'INSERT INTO ticks DEFAULT VALUES');",
		"SELECT count(*) || (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_cron launcher')::text FROM cron.job", "11"},
	{"postgis", "postgis-3", "CREATE EXTENSION postgis; CREATE TABLE places (name text, at geography(Point, 4326)); INSERT INTO places VALUES ('Bonn', 'POINT(7.1 50.73)'), ('Köln', 'POINT(6.96 50.94)'); CREATE INDEX ON places USING gist (at);",
		// Distances on the spheroid, and a projection, for which PROJ's database is read.
		"SELECT round((SELECT ST_Distance(a.at, b.at) FROM places a, places b WHERE a.name = 'Bonn' AND b.name = 'Köln') / 1000) || ' ' || round(ST_X(ST_Transform(at::geometry, 25832))) FROM places WHERE name = 'Bonn'", "25 365910"},
	{"vector", "vector", "CREATE EXTENSION vector; CREATE TABLE items (v vector(3)); INSERT INTO items VALUES ('[1,2,3]'), ('[3,1,2]'); CREATE INDEX ON items USING hnsw (v vector_l2_ops);",
		"SELECT v FROM items ORDER BY v <-> '[3,1,1]' LIMIT 1", "[3,1,2]"},
	{"timescaledb", "timescaledb", "CREATE EXTENSION timescaledb; CREATE TABLE m (t timestamptz, v int); SELECT create_hypertable('m', 't'); INSERT INTO m VALUES ('2020-01-01', 1), ('2021-01-01', 2);",
		"SELECT sum(v) FROM m", "3"},
}

// postgresProgram is PostgreSQL's server, relative to the directories of programs.
func postgresProgram() string {
	dirs, _ := filepath.Glob(enginePrefixes()[0] + "/usr/lib/postgresql/*/bin/postgres") // the pattern is well formed
	if len(dirs) == 0 {
		return "postgres"
	}
	version := filepath.Base(filepath.Dir(filepath.Dir(dirs[len(dirs)-1])))
	return "../lib/postgresql/" + version + "/bin/postgres"
}

// TestExtensions: goldens with extensions and background workers build, clone and answer.
func TestExtensions(t *testing.T) {
	base := engineBase(t, postgresProgram())
	libraries := filepath.Join(enginePrefixes()[0], "/usr/bin", postgresProgram(), "../../lib")
	d := newDaemon(t, "[pool]\nauto = false\n")
	found := 0
	for _, e := range extensions {
		if _, err := os.Stat(filepath.Join(libraries, e.library+".so")); err != nil {
			t.Logf("no %s in the packages of this system", e.name)
			continue
		}
		found++
		t.Run(e.name, func(t *testing.T) {
			golden := "with-" + strings.ReplaceAll(e.name, "_", "-")
			args := append([]string{"golden", "build", golden, "--database", "app", "--init", d.file("ext.sql", e.sql)}, base...)
			if e.name == "pg_cron" || e.name == "timescaledb" {
				args = append(args, "--set", "shared_preload_libraries="+e.library)
			}
			if e.name == "pg_cron" { // a worker, in place of a connection that would need a password
				args = append(args, "--set", "cron.database_name=app", "--set", "cron.use_background_workers=on")
			}
			d.run(args...)
			url := d.run("clone", golden, "--name", "of-"+golden)
			if got := query(t, url, e.ask); got != e.want {
				t.Errorf("a clone answers %q, want %q", got, e.want)
			}
			if e.name == "pg_cron" && honest() >= 500 {
				runsJobs(t, url)
			}
		})
	}
	if found == 0 {
		t.Skip("no extensions here: .ci/setup engines unpacks them")
	}
}

// runsJobs waits for the next full minute, when the job is due.
func runsJobs(t *testing.T, url string) {
	t.Helper()
	tick := time.Tick(time.Second)
	for deadline := time.Now().Add(2 * time.Minute); query(t, url, "SELECT count(*) FROM ticks") == "0"; {
		if time.Now().After(deadline) {
			t.Fatalf("no job has run: %s", query(t, url, "SELECT coalesce(string_agg(status || ' ' || coalesce(return_message, ''), '; '), 'none') FROM cron.job_run_details"))
		}
		<-tick
	}
}
