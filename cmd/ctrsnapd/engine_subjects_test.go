package main_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/engine/enginetest"
)

// seeded returns what f says of each seeded key, and its value.
func seeded(f func(key, value string) string) string {
	var b strings.Builder
	for i := range enginetest.SeedKeys {
		b.WriteString(f(enginetest.Seed(i)))
	}
	return b.String()
}

func mariadbSQL() string { return tablesSQL(mariadbEngines) }

// tablesSQL spreads the seed over a table of each storage engine.
func tablesSQL(engines []string) string {
	var b strings.Builder
	for _, engine := range engines {
		fmt.Fprintf(&b, "CREATE TABLE kv_%s (k VARCHAR(64) PRIMARY KEY, v TEXT) ENGINE=%s;\n", strings.ToLower(engine), engine)
	}
	b.WriteString("CREATE ROLE reader; GRANT SELECT ON *.* TO reader; CREATE USER bob@'%' IDENTIFIED BY 'bobs'; GRANT reader TO bob;\n")
	return b.String() + seeded(func(key, value string) string {
		return fmt.Sprintf("INSERT INTO %s VALUES ('%s', '%s');\n", tableOf(engines, key), key, value)
	})
}

// tablesIntact has the server close its tables, and read all of them and of their indexes anew.
func tablesIntact(engines []string) func(*testing.T, enginetest.Daemon, api.Clone) {
	var names []string
	for _, e := range engines {
		names = append(names, "kv_"+strings.ToLower(e))
	}
	return func(t *testing.T, d enginetest.Daemon, c api.Clone) {
		t.Helper()
		got := d.Run(t, "connect", c.ID, "--", "-N", "-e", "FLUSH TABLES; CHECK TABLE "+strings.Join(names, ", ")+" EXTENDED")
		if strings.Count(got, "\tstatus\tOK") != len(names) {
			t.Errorf("clone %s: %s", c.ID, got)
		}
	}
}

func mariadbSubject(base []string) enginetest.Subject {
	const golden = "suite-mariadb"
	dump := func(more ...string) []string {
		return append([]string{"mariadb-dump", "--no-defaults", "--user=ctrsnap"}, more...)
	}
	return enginetest.Subject{
		Engine: "mariadb", Base: base, Open: openMariaDB,
		OwnPassword: true, Connections: 10, Reserved: 1, // one more for who has CONNECTION ADMIN
		Intact:    tablesIntact(mariadbEngines),
		Client:    []string{"-e", "SELECT v FROM kv_innodb WHERE k = 'seed0' UNION SELECT v FROM kv_myisam WHERE k = 'seed0' UNION SELECT v FROM kv_aria WHERE k = 'seed0'"},
		Recovered: regexp.MustCompile(`(?i)crash recovery|was not shut down|repair`),
		Sources: []enginetest.Source{
			withUsers(script("init", "--init", "shop.sql", mariadbSQL())),
			{Name: "dump", Flags: func(t *testing.T, d enginetest.Daemon) []string {
				return []string{"--from-dump", output(t, d, "mariadb", "dump.sql", dump(golden)...)}
			}},
			{Name: "packed dump of all databases", Check: hasUsers, Flags: func(t *testing.T, d enginetest.Daemon) []string {
				path := output(t, d, "mariadb", "all.sql", dump("--all-databases")...)
				if out, err := exec.Command("gzip", "-f", path).CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				return []string{"--from-dump", path + ".gz"}
			}},
			{Name: "live", Check: hasUsers, Flags: func(t *testing.T, d enginetest.Daemon) []string {
				return []string{"--from-url", d.Run(t, "inspect", golden+"-first", "--format", "{{.url}}")}
			}},
			{Name: "data directory", Check: hasUsers, Flags: func(t *testing.T, d enginetest.Daemon) []string {
				return []string{"--from-dir", copiedDir(t, d, golden, "/var/lib/mysql", "TERM")}
			}},
			{Name: "data directory of a server that was killed", Flags: func(t *testing.T, d enginetest.Daemon) []string {
				return []string{"--from-dir", copiedDir(t, d, golden, "/var/lib/mysql", "KILL")}
			}},
			withUsers(flags("parent", "--parent", golden)),
		},
		Wrong: []enginetest.Wrong{
			wrongFile("script that fails", "wrong.sql:2", "--init", "wrong.sql", "SELECT 1;\nNONSENSE;\n"),
			wrong("dump cut short", "cut short", func(t *testing.T, d enginetest.Daemon) []string {
				text, err := os.ReadFile(output(t, d, "mariadb", "whole.sql", dump(golden)...))
				if err != nil {
					t.Fatal(err)
				}
				head := text[:strings.LastIndex(string(text), "UNLOCK TABLES;")] // between statements: the client notices nothing
				return []string{"--from-dump", d.File(t, "cut.sql", string(head))}
			}),
			wrong("no data directory", "no data directory", func(t *testing.T, d enginetest.Daemon) []string {
				return []string{"--from-dir", d.Dir}
			}),
			wrong("setting that there is not", "no-such-setting", func(*testing.T, enginetest.Daemon) []string {
				return []string{"--exec", "true", "--set", "no-such-setting=1"}
			}),
			wrongFile("unknown script", "is no script", "--init", "x.redis", "SET a b\n"),
		},
	}
}

// hasUsers: users, roles and grants came along, and work.
func hasUsers(t *testing.T, d enginetest.Daemon, c api.Clone) {
	t.Helper()
	got := d.Run(t, "exec", c.ID, "--env", "MYSQL_PWD=bobs", "--", "mariadb", "--no-defaults", "--user=bob", "-N", "-e",
		"SET ROLE reader; SELECT COUNT(*) > 0 FROM `"+c.Database+"`.kv_innodb")
	if got != "1" {
		t.Errorf("bob reads %q", got)
	}
}

func withUsers(s enginetest.Source) enginetest.Source {
	s.Check = hasUsers
	return s
}

func mysqlSQL() string { return tablesSQL(mysqlEngines) }

// mysqlSubject is like MariaDB's, but for what a dump of all databases has.
func mysqlSubject(base []string) enginetest.Subject {
	const golden = "suite-mysql"
	dump := []string{"mysqldump", "--no-defaults", "--user=ctrsnap", golden}
	return enginetest.Subject{
		Engine: "mysql", Base: base,
		Open: func(ctx context.Context, c api.Clone) (enginetest.Store, error) {
			return openMySQL(ctx, c, mysqlEngines)
		},
		OwnPassword: true, Connections: 10, Reserved: 1, // one more for who has CONNECTION_ADMIN
		Intact:    tablesIntact(mysqlEngines),
		Client:    []string{"-e", "SELECT v FROM kv_innodb WHERE k = 'seed0' UNION SELECT v FROM kv_myisam WHERE k = 'seed0'"},
		Recovered: regexp.MustCompile(`(?i)not shutdown normally|starting crash recovery|repair`),
		Sources: []enginetest.Source{
			withMySQLUsers(enginetest.Source{Name: "init", Flags: func(t *testing.T, d enginetest.Daemon) []string {
				return []string{"--init", d.File(t, "shop.sql", mysqlSQL()), "--set", "log-error-verbosity=3"} // tells of recovery
			}}),
			{Name: "dump", Flags: func(t *testing.T, d enginetest.Daemon) []string {
				return []string{"--from-dump", output(t, d, "mysql", "dump.sql", dump...)}
			}},
			{Name: "live", Flags: func(t *testing.T, d enginetest.Daemon) []string {
				return []string{"--from-url", d.Run(t, "inspect", golden+"-first", "--format", "{{.url}}")}
			}},
			withMySQLUsers(enginetest.Source{Name: "data directory", Flags: func(t *testing.T, d enginetest.Daemon) []string {
				return []string{"--from-dir", copiedDir(t, d, golden, "/var/lib/mysql", "TERM")}
			}}),
			{Name: "data directory of a server that was killed", Flags: func(t *testing.T, d enginetest.Daemon) []string {
				return []string{"--from-dir", copiedDir(t, d, golden, "/var/lib/mysql", "KILL")}
			}},
			withMySQLUsers(flags("parent", "--parent", golden)),
		},
		Wrong: []enginetest.Wrong{
			wrongFile("script that fails", "wrong.sql:2", "--init", "wrong.sql", "SELECT 1;\nNONSENSE;\n"),
			wrong("no data directory", "no data directory", func(t *testing.T, d enginetest.Daemon) []string {
				return []string{"--from-dir", d.Dir}
			}),
			wrong("setting that there is not", "no-such-setting", func(*testing.T, enginetest.Daemon) []string {
				return []string{"--exec", "true", "--set", "no-such-setting=1"}
			}),
		},
	}
}

// withMySQLUsers has clones checked for users, roles and grants, that work.
func withMySQLUsers(s enginetest.Source) enginetest.Source {
	s.Check = func(t *testing.T, d enginetest.Daemon, c api.Clone) {
		t.Helper()
		got := d.Run(t, "exec", c.ID, "--env", "MYSQL_PWD=bobs", "--", "mysql", "--no-defaults", "--user=bob", "-N", "-e",
			"SET ROLE reader; SELECT COUNT(*) > 0 FROM `"+c.Database+"`.kv_innodb")
		if got != "1" {
			t.Errorf("bob reads %q", got)
		}
	}
	return s
}

// redisSubject is for Redis and for Valkey, whose programs have other names.
func redisSubject(name string) func([]string) enginetest.Subject {
	return func(base []string) enginetest.Subject { return redisLike(name, base) }
}

func redisLike(name string, base []string) enginetest.Subject {
	golden := "suite-" + name
	commands := "ACL SETUSER bob on >bobs ~b* +get\n" + seeded(func(k, v string) string { return fmt.Sprintf("SET %s %s\n", k, v) })
	resp := seeded(func(k, v string) string {
		return fmt.Sprintf("*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n", len(k), k, len(v), v)
	})
	aof := "*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n" + resp
	rdb := func(t *testing.T, d enginetest.Daemon) string {
		d.Run(t, "exec", golden+"-first", "--", name+"-cli", "--rdb", "/tmp/copy.rdb")
		c := d.Run(t, "inspect", golden+"-first", "--format", "{{.pid}}")
		text, err := os.ReadFile("/proc/" + c + "/root/tmp/copy.rdb")
		if err != nil {
			t.Fatal(err)
		}
		return d.File(t, "copy.rdb", string(text))
	}
	return enginetest.Subject{
		Engine: name, Base: base, Open: openRedis,
		OwnPassword: true, Connections: 5, Client: []string{"GET", "seed0"}, Intact: savesNothing,
		Recovered: regexp.MustCompile(`(?i)truncat|corrupt|append only file`),
		Sources: []enginetest.Source{
			{Name: "commands", Check: hasBob(name), Flags: script("", "--init", "seed.redis", commands).Flags},
			{Name: "RDB", Flags: func(t *testing.T, d enginetest.Daemon) []string { return []string{"--from-dump", rdb(t, d)} }},
			script("AOF", "--from-dump", "appendonly.aof", aof),
			{Name: "live", Flags: func(t *testing.T, d enginetest.Daemon) []string {
				return []string{"--from-url", d.Run(t, "inspect", golden+"-first", "--format", "{{.url}}")}
			}},
			{Name: "directory with an RDB", Check: hasBob(name), Flags: func(t *testing.T, d enginetest.Daemon) []string {
				return []string{"--from-dir", copiedDir(t, d, golden, "/var/lib/"+name, "")}
			}},
			aofDir("directory with an AOF", map[string]string{"appendonly.aof": aof}),
			// What Redis 7 and Valkey write.
			aofDir("directory with an AOF in parts", map[string]string{
				"appendonlydir/appendonly.aof.manifest":   "file appendonly.aof.1.incr.aof seq 1 type i\n",
				"appendonlydir/appendonly.aof.1.incr.aof": aof,
			}),
			{Name: "parent", Check: hasBob(name), Flags: flags("", "--parent", golden).Flags},
		},
		Wrong: []enginetest.Wrong{
			wrongFile("command that fails", "wrong.redis", "--init", "wrong.redis", "SET a b\nNONSENSE\n"),
			wrongFile("AOF cut short", "cut.aof", "--from-dump", "cut.aof", resp[:len(resp)-7]),
			wrong("RDB cut short", "cut.rdb", func(t *testing.T, d enginetest.Daemon) []string {
				text, err := os.ReadFile(rdb(t, d))
				if err != nil {
					t.Fatal(err)
				}
				return []string{"--from-dump", d.File(t, "cut.rdb", string(text[:len(text)/2]))}
			}),
			wrong("reserved setting", "cannot be changed", func(*testing.T, enginetest.Daemon) []string { return []string{"--exec", "true", "--set", "dir=/tmp"} }),
		},
	}
}

// savesNothing: a clone that was written to keeps that in memory alone.
func savesNothing(t *testing.T, d enginetest.Daemon, c api.Clone) {
	t.Helper()
	if got := strings.Fields(d.Run(t, "connect", c.ID, "--", "CONFIG", "GET", "appendonly")); len(got) != 2 || got[1] != "no" {
		t.Errorf("append-only file: %q", got)
	}
	if got := strings.Fields(d.Run(t, "connect", c.ID, "--", "CONFIG", "GET", "save")); len(got) != 3 || got[1] != "31536000" { // once a year: what ends in order saves, for its restart
		t.Errorf("saved at: %q", got)
	}
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/root/var/lib/%s", c.PID, c.Engine))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if name := e.Name(); name != "dump.rdb" && name != "users.acl" {
			t.Errorf("the clone has written %s", name)
		}
	}
}

// aofDir is a data directory of files.
func aofDir(name string, files map[string]string) enginetest.Source {
	return enginetest.Source{Name: name, Flags: func(t *testing.T, _ enginetest.Daemon) []string {
		dir := t.TempDir()
		for file, text := range files {
			path := filepath.Join(dir, "data", file)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return []string{"--from-dir", filepath.Join(dir, "data")}
	}}
}

// hasBob: users came along, and what they may.
func hasBob(name string) func(*testing.T, enginetest.Daemon, api.Clone) {
	return func(t *testing.T, d enginetest.Daemon, c api.Clone) {
		t.Helper()
		got := d.Run(t, "exec", c.ID, "--env", "REDISCLI_AUTH=bobs", "--", name+"-cli", "-s", "/ctrsnap/run/"+name+".sock", "--user", "bob", "set", "b", "1")
		if !strings.Contains(got, "NOPERM") {
			t.Errorf("bob, who may only read, is told %q", got)
		}
	}
}

func etcdSubject(base []string) enginetest.Subject {
	const golden = "suite-etcd"
	return enginetest.Subject{
		Engine: "etcd", Base: base, Open: openEtcd, Client: []string{"get", "seed0"},
		Recovered: regexp.MustCompile(`(?i)corrupt|repair|unexpected EOF`),
		Sources: []enginetest.Source{
			script("pairs", "--init", "seed.kv", seeded(func(k, v string) string { return k + " " + v + "\n" })),
			{Name: "snapshot", Flags: func(t *testing.T, d enginetest.Daemon) []string {
				d.Run(t, "exec", golden+"-first", "--", "etcdctl", "snapshot", "save", "/tmp/copy.db")
				pid := d.Run(t, "inspect", golden+"-first", "--format", "{{.pid}}")
				text, err := os.ReadFile("/proc/" + pid + "/root/tmp/copy.db")
				if err != nil {
					t.Fatal(err)
				}
				return []string{"--from-dump", d.File(t, "copy.db", string(text))}
			}},
			{Name: "data directory", Flags: func(t *testing.T, d enginetest.Daemon) []string {
				return []string{"--from-dir", copiedDir(t, d, golden, "/var/lib/etcd", "TERM")}
			}},
			flags("parent", "--parent", golden),
		},
		Wrong: []enginetest.Wrong{
			wrongFile("script that fails", "wrong.sh", "--init", "wrong.sh", "etcdctl no-such-verb\n"),
			wrongFile("no snapshot", "no.db", "--from-dump", "no.db", "nothing"),
			wrong("live", "no way to dump", func(*testing.T, enginetest.Daemon) []string { return []string{"--from-url", "http://u:p@127.0.0.1:1/"} }),
		},
	}
}

// natsShell speaks to the server by what bash has: each message is acknowledged by a MSG.
const natsShell = `exec 3<>/dev/tcp/127.0.0.1/4222
printf 'CONNECT {"user":"%s","pass":"%s","verbose":false}\r\nSUB _I 1\r\n' "$NATS_USER" "$NATS_PASSWORD" >&3
ask() {
	printf 'PUB %s _I %d\r\n%s\r\n' "$1" "${#2}" "$2" >&3
	while read -r word rest <&3; do
		case $word in -ERR*) echo "$word $rest" >&2; exit 1;; MSG) read -r answer <&3; break;; esac
	done
	case $answer in *'"error"'*) echo "$answer" >&2; exit 1;; esac
}
`

func natsSeed() string {
	return natsShell + `ask '$JS.API.STREAM.CREATE.KV' '{"name":"KV","subjects":["kv.>"],"max_msgs_per_subject":1,"storage":"file"}'
` + seeded(func(k, v string) string { return fmt.Sprintf("ask kv.%s %s\n", k, v) })
}

// natsGet prints what a message of the stream has.
const natsGet = `ask '$JS.API.STREAM.MSG.GET.KV' '{"last_by_subj":"kv.seed0"}'
answer=${answer#*'"data":"'}; base64 -d <<<"${answer%%'"'*}"
`

func natsSubject(base []string) enginetest.Subject {
	const golden = "suite-nats"
	return enginetest.Subject{
		Engine: "nats", Base: base, Open: openNATS, Client: []string{"-c", `exec bash -ec "$0"`, natsShell + natsGet}, // a shell
		Recovered: regexp.MustCompile(`(?i)corrupt|checksum|error recovering`),
		Sources: []enginetest.Source{
			script("script", "--init", "seed.sh", natsSeed()),
			{Name: "data directory", Flags: func(t *testing.T, d enginetest.Daemon) []string {
				return []string{"--from-dir", copiedDir(t, d, golden, "/var/lib/nats", "TERM")}
			}},
			flags("parent", "--parent", golden),
		},
		Wrong: []enginetest.Wrong{
			wrongFile("script that fails", "wrong.sh", "--init", "wrong.sh", "exit 3\n"),
			wrong("a dump", "no dumps", script("", "--from-dump", "x", "x").Flags),
		},
	}
}

func postgresSQL() string {
	return "CREATE TABLE kv (k text PRIMARY KEY, v text);\n" + seeded(func(k, v string) string {
		return fmt.Sprintf("INSERT INTO kv VALUES ('%s', '%s');\n", k, v)
	})
}

func postgresSubject(base []string) enginetest.Subject {
	const golden = "suite-postgres"
	return enginetest.Subject{
		Engine: "postgres", Base: base, Open: openPostgres,
		OwnPassword: true, Connections: 5, Client: []string{"-c", "SELECT v FROM kv WHERE k = 'seed0'"},
		Recovered: regexp.MustCompile(`not properly shut down|redo starts|recovery`),
		Sources: []enginetest.Source{
			script("init", "--init", "shop.sql", postgresSQL()),
			{Name: "dump", Flags: func(t *testing.T, d enginetest.Daemon) []string {
				return []string{"--from-dump", output(t, d, "postgres", "dump.sql", "pg_dump", golden)}
			}},
			{Name: "live", Flags: func(t *testing.T, d enginetest.Daemon) []string {
				return []string{"--from-url", d.Run(t, "inspect", golden+"-first", "--format", "{{.url}}")}
			}},
			{Name: "data directory", Flags: func(t *testing.T, d enginetest.Daemon) []string {
				return []string{"--from-dir", copiedDir(t, d, golden, "/var/lib/postgresql/data", "INT")}
			}},
			flags("parent", "--parent", golden),
		},
		Wrong: []enginetest.Wrong{
			wrongFile("script that fails", "wrong.sql:2", "--init", "wrong.sql", "SELECT 1;\nNONSENSE;\n"),
			wrongFile("no dump", "not a dump", "--from-dump", "x.dump", "\x00\x01"),
		},
	}
}
