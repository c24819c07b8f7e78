package main_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

var (
	crashKills = flag.Int("crash.kills", 8, "how often TestCrash kills the daemon")
	crashTime  = flag.Duration("crash.time", time.Hour, "after which TestCrash ends, however often it has killed")
	crashSeed  = flag.Uint64("crash.seed", 1, "of what TestCrash does at random")
	crashOut   = flag.String("crash.out", "", "file that takes TestCrash's figures")
)

// storagePoints are visited while a storage is made and grown: by a start.
var storagePoints = []string{
	"storage.mkfs", "storage.rename", "storage.attach", "storage.mount", "storage.grow", "storage.extended", "storage.resized",
}

// bootPoints are visited by the first start after a boot.
var bootPoints = []string{
	"checkpoint.install snapshots.db", "checkpoint.install metadata.db", "start.storage", "checkpoint.boot", "start.containerd", "start.network", "start.recover",
}

// loadPoints are visited by callers, and by starts. clone.given is TestAttach's: their interfaces have addresses of their own.
var loadPoints = []string{
	"golden.begin", "golden.leased", "golden.opened", "golden.sync", "golden.snapshot", "golden.content", "golden.record", "golden.current", "golden.lease",
	"golden.checkpoint", "golden.promote", "golden.hold", "golden.heir", "golden.forget", "golden.remove", "golden.label", "golden.release", "golden.prepared",
	"checkpoint.sync", "checkpoint.write", "checkpoint.rename", "checkpoint.prune",
	"build.spool init", "build.base", "build.begin", "build.bench", "build.commit",
	"clone.prepared", "clone.connected", "clone.files", "clone.reserved", "clone.created", "clone.started", "clone.ready", "clone.kept",
	"clone.claim", "clone.claimed", "clone.hand out", "clone.replace", "clone.removed", "clone.killed",
	"clone.remove container", "clone.remove interfaces", "clone.remove ports", "clone.remove network", "clone.remove snapshot", "clone.remove files",
	"publish.record", "publish.recorded", "publish.published", "publish.remove", "publish.removed",
	"attach.recorded", "attach.attached", "attach.detached", "clone.attached",
	"runner.recorded", "runner.created", "runner.ended", "runner.deleted",
	"shim.recorded", "shim.created", "shim.started", "shim.ended",
	"netpool.take", "netpool.taken", "netpool.record", "netpool.remove", "netpool.removed",
	"bridge.link", "bridge.port", "bridge.neighbour", "bridge.firewall", "bridge.inside", "bridge.added",
	"bridge.remove", "bridge.unplugged", "bridge.forgotten", "bridge.lease", "bridge.recorded",
	"cni.add eth0", "cni.added eth0", "cni.isolate", "cni.isolated",
	"start.state", "start.storage", "start.containerd", "start.network", "start.shims", "start.engines", "start.runtime", "start.telemetry", "start.recover",
}

// killer kills a daemon under load, and counts.
type killer struct {
	*load
	rand   *rand.Rand
	kills  int
	left   []string       // failpoints still to be killed at
	armed  string         // the one that kills the daemon that runs
	killed map[string]int // kills by failpoint
	visits string
}

// crashReport is the figures of TestCrash.
type crashReport struct {
	Target       string         `json:"target"`
	Seed         uint64         `json:"seed"`
	Kills        int            `json:"kills"`
	AtFailpoints int            `json:"kills_at_failpoints"`
	Failpoints   int            `json:"failpoints"`
	NotReached   []string       `json:"failpoints_not_reached"`
	Confirmed    map[string]int `json:"confirmed"`
	GoldensLost  int            `json:"goldens_lost"`
	GoldensWrong int            `json:"goldens_wrong"`
	ClonesLost   int            `json:"clones_lost"`
	Twice        int            `json:"handed_out_twice"`
	Leaked       map[string]int `json:"leaked"`
	Seconds      int            `json:"seconds"`
}

// TestCrash kills the daemon at failpoints and at random under callers who clone, run,
// remove, build and promote. What it has confirmed is there each time, nobody
// is given what somebody else has, and nothing is left in the end.
func TestCrash(t *testing.T) {
	t.Parallel()
	begun := time.Now()
	k := newKiller(t, *crashSeed)
	t.Logf("seed %d", *crashSeed)
	ctx := t.Context()
	if *crashKills > 100 { // a short run has other things to do
		k.killOpening()
	}
	before := k.settle(ctx)
	leaked := map[string]int{}
	if *crashKills > 100 {
		k.buildFirst(ctx)
	}
	k.start(ctx)
	for n := 1; k.kills < *crashKills && time.Since(begun) < *crashTime && !t.Failed(); n++ {
		k.kill(ctx)
		if n%60 == 0 {
			k.audit(ctx, before, leaked)
		}
	}
	k.end()
	k.audit(ctx, before, leaked)
	k.report(time.Since(begun), leaked)
}

func newKiller(t *testing.T, seed uint64) *killer {
	dir := t.TempDir()
	lanConf(t, dir)
	d := newDaemon(t, fmt.Sprintf("ahead = 4\nconf_dirs = [%q]\n[pool]\nauto = false\n[storage]\nsize = \"2GiB\"\n", dir))
	k := &killer{
		load: newLoad(t, d, seed), rand: rand.New(rand.NewPCG(seed, 1000)), //nolint:gosec // to be repeated
		killed: map[string]int{}, left: slices.Clone(loadPoints), visits: filepath.Join(d.work, "visits"),
	}
	k.rand.Shuffle(len(k.left), func(i, j int) { k.left[i], k.left[j] = k.left[j], k.left[i] })
	d.file("schema.sql", schema)
	d.run("golden", "build", "shop", fromHost(), "--init", "schema.sql")
	return k
}

// settle returns what there is without clones, and has a pool made.
func (k *killer) settle(ctx context.Context) census {
	d := k.d
	d.run("rm", cloneJSON(k.t, d, "shop", "--network", "lan").ID) // opens it, which stays
	d.run("pool", "set", "shop", "--size", "0")
	waitFor(k.t, "spare namespaces", func() bool { return len(d.takeCensus(ctx)["netns"]) == 4+2 })
	before := d.takeCensus(ctx)
	d.run("pool", "set", "shop", "--size", "2")
	return before
}

// lanConf writes the configuration of a network that needs nothing of the host.
func lanConf(t testing.TB, dir string) {
	t.Helper()
	doc := `{"cniVersion": "1.0.0", "name": "lan", "plugins": [{"type": "ptp", "ipam": {"type": "host-local", "ranges": [[{"subnet": "` + newRange() + `.0.0/24"}]]}}]}`
	if err := os.WriteFile(filepath.Join(dir, "lan.conflist"), []byte(doc), 0o600); err != nil {
		t.Fatal(err)
	}
}

// kill lets the callers work, kills the daemon, starts another one and compares.
func (k *killer) kill(ctx context.Context) {
	k.t.Helper()
	began := time.Now()
	how := k.runToItsEnd()
	k.gate.Lock() // the callers' operations end with their daemon
	defer k.gate.Unlock()
	ended := time.Now()
	for k.rand.IntN(8) == 0 {
		k.killStarting("")
	}
	k.next(ctx)
	k.t.Logf("kill %d %s after %v, back in %v", k.kills, how, ended.Sub(began).Round(time.Millisecond), time.Since(ended).Round(time.Millisecond))
	k.complain(how)
}

// complain fails the test for what was found wrong after a kill.
func (k *killer) complain(how string) {
	k.t.Helper()
	for _, list := range [][]string{k.lost, k.twice, k.wrong} {
		for _, s := range list {
			k.t.Errorf("after kill %d %s: %s", k.kills, how, s)
		}
	}
}

// runToItsEnd waits until the daemon has died at its failpoint, or kills it.
func (k *killer) runToItsEnd() string {
	wait := time.Duration(k.rand.IntN(700)) * time.Millisecond
	if k.rand.IntN(4) == 0 {
		wait *= 6
	}
	if k.armed != "" {
		wait = 25 * time.Second // a build is slow under such load
	}
	select {
	case <-k.d.ended():
		return k.died()
	case <-time.After(wait):
		if k.armed != "" {
			k.left = append([]string{k.armed}, k.left...) // later
			k.t.Logf("failpoint %s was not reached", k.armed)
		}
		k.d.stop(syscall.SIGKILL)
		k.kills++
		return "at random"
	}
}

// died counts a kill at the failpoint.
func (k *killer) died() string {
	k.d.stop(syscall.SIGKILL)
	if k.armed == "" {
		k.t.Errorf("the daemon has died by itself:\n%s", k.d.logTail())
	}
	k.kills++
	k.killed[k.armed]++
	return "at " + k.armed
}

// killStarting kills a daemon while it starts, at a failpoint or, with none, at random.
func (k *killer) killStarting(point string) {
	k.t.Helper()
	if point == "" {
		timer := time.AfterFunc(time.Duration(k.rand.IntN(250))*time.Millisecond, func() { k.d.signal(syscall.SIGKILL) })
		defer timer.Stop()
		_ = k.d.launch()
		k.d.stop(syscall.SIGKILL)
		k.kills++
		return
	}
	if err := k.d.launch(killAt(point, 1)); err == nil {
		k.t.Errorf("a start did not come by %s", point)
		k.d.stop(syscall.SIGKILL)
		return
	}
	k.d.stop(syscall.SIGKILL)
	k.kills++
	k.killed[point]++
}

func killAt(point string, nth int) string {
	return fmt.Sprintf("CTRSNAPD_FAILPOINT=%s=kill@%d", point, nth)
}

// next starts a daemon that dies at the next failpoint, and compares what it has with
// what was confirmed. It may die of that: then the one after it does without.
func (k *killer) next(ctx context.Context) {
	k.t.Helper()
	var env []string
	k.armed = ""
	if k.rand.IntN(2) == 0 {
		k.armed = k.point()
		nth := 1
		if k.rand.IntN(2) == 0 {
			nth += k.rand.IntN(3)
		}
		env = []string{killAt(k.armed, nth), "CTRSNAPD_FAILPOINT_VISITS=" + k.visits}
	}
	if strings.HasPrefix(k.armed, "shim.") {
		k.killShims(ctx)
	}
	err := k.d.launch(env...)
	if err == nil {
		err = k.verify(ctx)
	}
	if err == nil {
		return
	}
	select {
	case <-k.d.ended():
	case <-time.After(5 * time.Second):
		k.t.Errorf("a daemon that lives cannot be asked: %v", err)
		return
	}
	k.died()
	k.armed = ""
	k.d.start()
	if err := k.verify(ctx); err != nil {
		k.t.Errorf("compare: %v\n%s", err, k.d.logTail())
	}
}

// point chooses the next failpoint: each of them once, then any that is soon reached.
func (k *killer) point() string {
	if last := len(k.left) - 1; last >= 0 {
		point := k.left[last]
		k.left = k.left[:last]
		return point
	}
	for {
		point := loadPoints[k.rand.IntN(len(loadPoints))]
		if part, _, _ := strings.Cut(point, "."); !slices.Contains([]string{"golden", "checkpoint", "build", "shim"}, part) {
			return point
		}
	}
}

// buildFirst gives those who build something to promote and remove.
func (k *killer) buildFirst(ctx context.Context) {
	for _, c := range k.callers {
		for c.golden != "" && len(c.versions) < 2 {
			if err := c.build(ctx); err != nil {
				k.t.Fatal(err)
			}
		}
	}
}

// killShims ends the shims, so that a start makes a new one. No clone is to die of that.
func (k *killer) killShims(ctx context.Context) {
	k.t.Helper()
	k.d.start()
	if err := errors.Join(k.verify(ctx), k.clear(ctx)); err != nil {
		k.t.Error(err)
	}
	k.d.run("pool", "set", "shop", "--size", "0")
	waitFor(k.t, "clones to go", func() bool { return len(k.d.takeCensus(ctx)["containers"]) == 0 })
	k.d.run("pool", "set", "shop", "--size", "2")
	k.d.stop(syscall.SIGKILL)
	for _, line := range k.d.takeCensus(ctx)["shims"] {
		pid, _, _ := strings.Cut(line, " ")
		n, err := strconv.Atoi(pid)
		if err != nil {
			k.t.Fatal(err)
		}
		_ = syscall.Kill(n, syscall.SIGKILL)
	}
}

// killOpening kills starts that make, mount and grow a storage, and the first starts
// after a boot.
func (k *killer) killOpening() {
	k.t.Helper()
	for _, point := range bootPoints {
		k.d.stop(syscall.SIGKILL)
		k.reboot()
		k.killStarting(point)
		k.d.start()
	}
	for i, point := range storagePoints[2:] {
		k.d.tearDownOnly()
		text := regexp.MustCompile(`size = "\d+`).ReplaceAll(mustRead(k.t, k.d.config()), fmt.Appendf(nil, `size = "%d`, 3+i))
		if err := os.WriteFile(k.d.config(), text, 0o600); err != nil {
			k.t.Fatal(err)
		}
		k.killStarting(point)
		k.d.start()
	}
	if err := k.verify(k.t.Context()); err != nil {
		k.t.Fatal(err)
	}
}

// reboot has the daemon think that the machine was started anew.
func (k *killer) reboot() {
	file := filepath.Join(k.d.work, "root/storage/checkpoint/boot")
	if err := os.WriteFile(file, []byte("another\n"), 0o600); err != nil {
		k.t.Fatal(err)
	}
}

// audit gives all clones back, reads all goldens and looks for what is left.
func (k *killer) audit(ctx context.Context, before census, leaked map[string]int) {
	k.t.Helper()
	k.gate.Lock()
	defer k.gate.Unlock()
	k.d.stop(syscall.SIGKILL)
	k.kills++
	k.armed = ""
	k.d.start()
	if err := errors.Join(k.verify(ctx), k.clear(ctx), k.verifyDigests(ctx)); err != nil {
		k.t.Error(err)
	}
	k.d.run("pool", "set", "shop", "--size", "0")
	for kind, n := range k.d.leaks(ctx, before) {
		leaked[kind] += n
	}
	k.d.run("pool", "set", "shop", "--size", "2")
}

func (k *killer) report(took time.Duration, leaked map[string]int) {
	lostClones := 0
	for _, s := range k.lost {
		if strings.HasPrefix(s, "clone") {
			lostClones++
		}
	}
	at := 0
	for _, n := range k.killed {
		at += n
	}
	r := crashReport{
		Target: "crash", Seed: k.seed, Kills: k.kills, AtFailpoints: at, Failpoints: len(k.killed), NotReached: k.left, Confirmed: k.done,
		GoldensLost: len(k.lost) - lostClones, GoldensWrong: len(k.wrong), ClonesLost: lostClones, Twice: len(k.twice), Leaked: leaked,
		Seconds: int(took.Seconds()),
	}
	line, err := json.Marshal(r)
	if err != nil {
		k.t.Fatal(err)
	}
	k.t.Logf("%s", line)
	for _, kind := range slices.Sorted(maps.Keys(k.failed)) {
		k.t.Logf("%d times the daemon said of %s", k.failed[kind], kind)
	}
	k.t.Logf("time spent: %v", k.took)
	visited, _ := os.ReadFile(k.visits)
	names := nonEmpty(strings.Split(string(visited), "\n"))
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if !slices.Contains(slices.Concat(loadPoints, storagePoints, bootPoints), name) {
			k.t.Errorf("failpoint %s is in no list here", name)
		}
	}
	if *crashOut != "" {
		if err := os.WriteFile(*crashOut, append(line, '\n'), 0o600); err != nil {
			k.t.Fatal(err)
		}
	}
}
