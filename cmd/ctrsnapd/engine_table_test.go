package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
	"github.com/ctrsnap/ctrsnap/runtime/engine/enginetest"
)

// maxColdOverBare is what a cold clone may take, in boots of the same server on a
// plain copy.
const maxColdOverBare = 1.4

// tableRow is what a golden for the table is made of: some ten MB, as tests use them.
type tableRow struct {
	name, program, data string
	make                func([]string) enginetest.Subject
	file, text          string
}

func tableRows() []tableRow {
	return []tableRow{
		{"postgres", postgresProgram(), "/var/lib/postgresql/data", postgresSubject, "big.sql",
			postgresSQL() + "CREATE TABLE big AS SELECT i, md5(i::text) FROM generate_series(1, 200000) i; CREATE INDEX ON big (i);"},
		{"mariadb", "mariadbd", "/var/lib/mysql", mariadbSubject, "big.sql",
			mariadbSQL() + "CREATE TABLE big (i INT PRIMARY KEY, t CHAR(32), KEY (t)) SELECT seq AS i, MD5(seq) AS t FROM seq_1_to_200000;\n"},
		{"mysql", mysqlProgram, "/var/lib/mysql", mysqlSubject, "big.sql", mysqlSQL() + mysqlBig},
		{"redis", "redis-server", "/var/lib/redis", redisSubject("redis"), "big.redis", redisBig()},
		{"valkey", "valkey-server", "/var/lib/valkey", redisSubject("valkey"), "big.redis", redisBig()},
		{"etcd", "etcd", "/var/lib/etcd", etcdSubject, "big.kv",
			seeded(func(k, v string) string { return k + " " + v + "\n" })},
		{"nats", "nats-server", "/var/lib/nats", natsSubject, "big.sh", natsSeed() + natsBig},
	}
}

// mysqlBig has no sequences to select from, and no MD5 any more.
const mysqlBig = "SET SESSION cte_max_recursion_depth = 200000;\n" +
	"CREATE TABLE big (i INT PRIMARY KEY, t CHAR(32), KEY (t)) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000) SELECT i, LEFT(SHA2(i, 256), 32) AS t FROM n;\n"

func redisBig() string {
	return seeded(func(k, v string) string { return fmt.Sprintf("SET %s %s\n", k, v) }) +
		"EVAL \"for i = 1, 200000 do redis.call('SET', 'big:' .. i, redis.sha1hex(i)) end\" 0\n"
}

// natsBig fills a stream: what is acknowledged is read at the end only.
const natsBig = `ask '$JS.API.STREAM.CREATE.BIG' '{"name":"BIG","subjects":["big.>"],"storage":"file"}'
pad=$(printf '%01000d' 0)
i=0; while [ $i -lt 50000 ]; do printf 'PUB big.%d %d\r\n%s\r\n' $i ${#pad} "$pad"; i=$((i+1)); done >&3
until ask '$JS.API.STREAM.INFO.BIG' '' && case $answer in *'"messages":50000,'*) true;; *) false;; esac; do sleep 0.2; done
`

// TestEngineTable measures cold clones in turns with bare boots: what a user waits for.
func TestEngineTable(t *testing.T) {
	rounds, err := strconv.Atoi(os.Getenv("CTRSNAP_TEST_TABLE"))
	if err != nil {
		t.Skip("CTRSNAP_TEST_TABLE says how many rounds: make test-engines")
	}
	only := os.Getenv("CTRSNAP_TEST_ENGINE") // of all, for a look at one
	d := newDaemon(t, "[pool]\nauto = false\n[clone]\nown_password = false\n")
	for _, file := range []string{"etcd", "nats"} {
		d.run("engine", "add", describedExample(t, file))
	}
	var text bytes.Buffer
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "engine\tgolden MB\tcold p50 ms\tbare boot p50 ms\tcold/bare\tclaim p50 ms\tunshared MB\t")
	for _, row := range tableRows() {
		if lacks(t, row.program) || only != "" && only != row.name {
			continue
		}
		t.Run(row.name, func(t *testing.T) {
			m := measure(t, d, row, rounds)
			fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%.1f\t%.2f\t%.2f\t%.1f\t\n", row.name, m.golden, m.cold, m.bare, m.cold/m.bare, m.claim, m.unshared)
			if m.cold > maxColdOverBare*m.bare {
				t.Errorf("a cold clone takes %.2f bare boots, more than %.1f; stages: %v", m.cold/m.bare, maxColdOverBare, m.stages)
			}
		})
	}
	w.Flush()
	fmt.Printf("\n%s\n", text.String())
}

type measured struct {
	golden, cold, bare, claim, unshared float64
	stages                              map[api.Stage]float64
}

func measure(t *testing.T, d *daemon, row tableRow, rounds int) measured {
	base := engineBase(t, row.program)
	s := row.make(base)
	golden := "table-" + row.name
	d.run(append([]string{"golden", "build", golden, "--engine", row.name, "--init", d.file(row.file, row.text)}, base...)...)
	g, err := client.Do(t.Context(), d.client, api.GetGolden, api.GoldenArgs{Ref: golden})
	if err != nil {
		t.Fatal(err)
	}
	m := measured{golden: float64(g.SizeBytes) / 1e6, stages: map[api.Stage]float64{}}
	first := cloneJSON(t, d, golden, "--name", golden)
	m.unshared = float64(first.MemoryBytes) / 1e6
	b := newBare(t, d, first, row.data)
	var cold, bare []float64
	stages := map[api.Stage][]float64{}
	for i := range rounds + 2 {
		took, c := coldClone(t, d, s, golden)
		boot := b.boot(t, s)
		if i < 2 {
			continue // the first ones warm up
		}
		cold, bare = append(cold, took), append(bare, boot)
		for stage, ms := range c.Timings {
			stages[stage] = append(stages[stage], ms)
		}
	}
	m.cold, m.bare = median(cold), median(bare)
	for stage, all := range stages {
		m.stages[stage] = median(all)
	}
	m.claim = claims(t, d, s, golden, rounds)
	seen, err := client.Do(t.Context(), d.client, api.GetClone, api.CloneArgs{ID: golden})
	if err != nil {
		t.Fatal(err)
	}
	m.unshared = float64(seen.MemoryBytes) / 1e6
	d.run("rm", golden)
	return m
}

func median(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}

// coldClone is the time from the request to the caller's own first answer.
func coldClone(t *testing.T, d *daemon, s enginetest.Subject, golden string) (float64, api.Clone) {
	t.Helper()
	begun := time.Now()
	r, err := client.Do(t.Context(), d.client, api.CreateClones, api.CreateArgs{Body: api.CloneRequest{Golden: golden}})
	if err != nil {
		t.Fatal(err)
	}
	askFirst(t, s, r.Clones[0])
	took := float64(time.Since(begun)) / 1e6
	d.run("rm", r.Clones[0].ID)
	return took, r.Clones[0]
}

func askFirst(t *testing.T, s enginetest.Subject, c api.Clone) {
	t.Helper()
	if err := tryFirst(t.Context(), s, c); err != nil {
		t.Fatal(err)
	}
}

func tryFirst(ctx context.Context, s enginetest.Subject, c api.Clone) error {
	ctx, cancel := within(ctx)
	defer cancel()
	store, err := s.Open(ctx, c)
	if err != nil {
		return err
	}
	defer store.Close()
	key, want := enginetest.Seed(0)
	got, err := store.Get(ctx, key)
	if err == nil && got != want {
		err = fmt.Errorf("%s is %q", key, got)
	}
	return err
}

// claims measures clones of a pool that is full each time.
func claims(t *testing.T, d *daemon, s enginetest.Subject, golden string, rounds int) float64 {
	d.run("pool", "set", golden, "--size", "2")
	var all []float64
	for range min(rounds, 10) {
		waitFor(t, "the pool to be full", func() bool { return pools(t, d)[golden+":1"].Ready == 2 })
		begun := time.Now()
		r, err := client.Do(t.Context(), d.client, api.CreateClones, api.CreateArgs{Body: api.CloneRequest{Golden: golden}})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, float64(time.Since(begun))/1e6)
		askFirst(t, s, r.Clones[0])
		d.run("rm", r.Clones[0].ID)
	}
	d.run("pool", "set", golden, "--size", "0")
	return median(all)
}

// bare is the server of a clone, with the same program, arguments and user, in a
// plain copy of the clone's files: no container, no overlay, no namespace.
type bare struct {
	clone      api.Clone
	root, data string
	layer      string // of the golden
	args, env  []string
	uid, gid   uint32
}

// lowerRE finds lower layers in mountinfo, by the old and the new way to mount.
var lowerRE = regexp.MustCompile(`[ ,]lowerdir\+?=([^, \n]+)`)

func newBare(t *testing.T, d *daemon, c api.Clone, data string) *bare {
	t.Helper()
	b := &bare{clone: c, data: data}
	proc := fmt.Sprintf("/proc/%d/", c.PID)
	read := func(name string) string {
		text, err := os.ReadFile(proc + name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	// Its command line as it was given: a server may have named itself another.
	configs, _ := filepath.Glob(filepath.Join(d.state, "containerd", "*", "*", c.ID, "config.json")) // the pattern is well formed
	var spec struct{ Process struct{ Args, Env []string } }
	if len(configs) != 1 {
		t.Fatalf("no specification of clone %s: %v", c.ID, configs)
	}
	text, err := os.ReadFile(configs[0])
	if err == nil {
		err = json.Unmarshal(text, &spec)
	}
	if err != nil {
		t.Fatal(err)
	}
	port := freeTCPPort(t)
	b.env = spec.Process.Env
	for _, a := range spec.Process.Args {
		b.args = append(b.args, strings.ReplaceAll(a, strconv.Itoa(c.Port), strconv.Itoa(port)))
	}
	var lower []string
	for line := range strings.Lines(read("mountinfo")) {
		if !strings.Contains(line, " / / ") {
			continue
		}
		for _, m := range lowerRE.FindAllStringSubmatch(line, -1) {
			for dir := range strings.SplitSeq(m[1], ":") { // as they are on disk
				dir = strings.Replace(dir, filepath.Join(d.state, "mapped"), filepath.Join(d.work, "root/storage/containerd"), 1)
				lower = append(lower, dir)
			}
		}
	}
	if len(lower) == 0 {
		t.Fatalf("no layers of %s", c.ID)
	}
	b.layer = lower[0]
	info, err := os.Stat(b.layer + data)
	if err != nil {
		t.Fatal(err)
	}
	b.uid, b.gid = info.Sys().(*syscall.Stat_t).Uid, info.Sys().(*syscall.Stat_t).Gid
	storage, _, _ := strings.Cut(b.layer, "/containerd/") // the snapshotter removes what it does not know
	b.root = filepath.Join(storage, "bare-"+c.Golden)
	t.Cleanup(func() { os.RemoveAll(b.root) })
	if err := os.MkdirAll(b.root, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, l := range slices.Backward(lower) {
		b.copy(t, l+"/.", b.root)
	}
	for name, dev := range map[string][2]uint32{"null": {1, 3}, "zero": {1, 5}, "random": {1, 8}, "urandom": {1, 9}} {
		_ = os.MkdirAll(b.root+"/dev", 0o755)
		_ = os.Remove(b.root + "/dev/" + name)
		if err := unix.Mknod(b.root+"/dev/"+name, unix.S_IFCHR|0o666, int(unix.Mkdev(dev[0], dev[1]))); err != nil {
			t.Fatal(err)
		}
		_ = os.Chmod(b.root+"/dev/"+name, 0o666)
	}
	for _, dir := range []string{"/ctrsnap/run", "/dev/shm", "/tmp"} {
		if err := os.MkdirAll(b.root+dir, 0o777); err != nil {
			t.Fatal(err)
		}
		_ = os.Chmod(b.root+dir, 0o777)
	}
	b.clone.Host, b.clone.Port = "127.0.0.1", port
	b.clone.URL = strings.ReplaceAll(strings.ReplaceAll(c.URL, c.Host, "127.0.0.1"), ":"+strconv.Itoa(c.Port), ":"+strconv.Itoa(port))
	return b
}

func freeTCPPort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (b *bare) copy(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", "--reflink=auto", from, to).CombinedOutput(); err != nil {
		t.Fatalf("copy %s: %v: %s", from, err, out)
	}
}

// boot starts the server on a new copy of the data, which is made before, and returns the
// milliseconds until it has answered.
func (b *bare) boot(t *testing.T, s enginetest.Subject) float64 {
	t.Helper()
	if err := os.RemoveAll(b.root + b.data); err != nil {
		t.Fatal(err)
	}
	b.copy(t, b.layer+b.data, b.root+filepath.Dir(b.data))
	var log bytes.Buffer
	begun := time.Now()
	cmd := exec.Command(b.args[0], b.args[1:]...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = b.env, "/", &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: b.root, Credential: &syscall.Credential{Uid: b.uid, Gid: b.gid}, Setsid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(time.Minute)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		err := tryFirst(t.Context(), s, b.clone)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			args, _ := json.Marshal(b.args)
			t.Fatalf("bare server does not answer: %v\n%s\n%s", err, args, log.String())
		}
		<-tick.C
	}
	took := float64(time.Since(begun)) / 1e6
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	_ = cmd.Wait()
	return took
}
