package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/ctrsnap/ctrsnap/bench"
	"github.com/ctrsnap/ctrsnap/bench/peer"
	"github.com/ctrsnap/ctrsnap/bench/recorder"
)

// query compares the rates of pgbench(1) in a clone and in a bare server, both of
// which run all the time.
func query(ctx context.Context, t *take) (err error) {
	const golden = "pgbench"
	if err := t.unpooled(ctx, golden); err != nil {
		return err
	}
	c, _, _, err := t.clone(ctx, golden)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.remove(ctx, c.ID)) }()
	o, err := t.original(c)
	if err != nil {
		return err
	}
	program, err := pgbench(o)
	if err != nil {
		t.skip("query_select_vs_bare, query_tpcb_vs_bare: %v", err)
		return nil
	}
	b, err := t.bare(o, endpoint(c))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	if err := b.Start(ctx); err != nil {
		return err
	}
	for _, l := range []load{
		{ratio: "query_select_vs_bare", builtin: "select-only", transactions: 1000},
		{ratio: "query_tpcb_vs_bare", builtin: "tpcb-like", transactions: 160},
	} {
		if err := t.rates(ctx, program, l, endpoint(c), b.Endpoint); err != nil {
			return err
		}
	}
	return errors.Join(checkRows(ctx, endpoint(c)), checkRows(ctx, b.Endpoint))
}

// pgbench looks for the program beside the server, then on PATH.
func pgbench(o peer.Original) (string, error) {
	beside := filepath.Join(filepath.Dir(o.Args[0]), "pgbench")
	if path, err := exec.LookPath(beside); err == nil {
		return path, nil
	}
	return exec.LookPath("pgbench")
}

// load is one that pgbench makes with a script of its own. transactions is how
// many each client runs in one turn: an eighth of a second or so. How fast a
// machine is changes from turn to turn by more than what is to be seen, by its
// neighbours and by where the scheduler puts clients and servers, so turns are
// short and many.
type load struct {
	ratio, builtin string
	transactions   int
}

// turnsOfValue is over how many turns a value is the rate. That of one turn has
// two modes, whether clients and servers have met on one CPU or not, and the
// median of such values jumps from one mode to the other.
const turnsOfValue = 5

// rates runs one load in turns against both.
func (t *take) rates(ctx context.Context, program string, l load, clone, bare peer.Endpoint) error {
	over, under := recorder.New("ctrsnap_"+l.builtin, "pgbench", "1/s"), recorder.New("bare_"+l.builtin, "pgbench", "1/s")
	arm := func(at peer.Endpoint, r *recorder.Recorder) bench.Arm {
		var took float64 // seconds per transaction, summed up over the turns of a value
		return func(ctx context.Context, round int) error {
			rate, err := runPgbench(ctx, program, l, at)
			if err != nil {
				return err
			}
			took += 1 / rate
			if round%turnsOfValue == turnsOfValue-1 {
				r.Add(turnsOfValue / took)
				took = 0
			}
			return nil
		}
	}
	// The first ones read what there is into both servers' memory.
	err := interleave(ctx, t, turnsOfValue*t.rounds(4), turnsOfValue*t.rounds(60), []*recorder.Recorder{over, under}, arm(clone, over), arm(bare, under))
	t.compare(l.ratio, over, under)
	return err
}

// What pgbench says at its end.
var (
	rateRE   = regexp.MustCompile(`(?m)^tps = ([0-9.]+) \(without initial connection time\)`)
	failedRE = regexp.MustCompile(`(?m)^number of failed transactions: 0 `)
)

// runPgbench returns the transactions per second of one turn.
func runPgbench(ctx context.Context, program string, l load, at peer.Endpoint) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	port := strings.TrimPrefix(filepath.Ext(at.Socket), ".")
	cmd := exec.CommandContext(ctx, program, "--no-vacuum", "--builtin="+l.builtin, "--client=4", "--jobs=2",
		"--transactions="+strconv.Itoa(l.transactions), "--host="+filepath.Dir(at.Socket), "--port="+port, "--username="+at.User, at.Database)
	cmd.Env = append(os.Environ(), "PGPASSWORD="+at.Password)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("pgbench: %w: %s", err, out)
	}
	return rateOf(string(out))
}

// rateOf reads what pgbench, of PostgreSQL 15 or later, has said.
func rateOf(out string) (float64, error) {
	m := rateRE.FindStringSubmatch(out)
	if m == nil || !failedRE.MatchString(out) {
		return 0, fmt.Errorf("pgbench: no rate, or failed transactions: %s", out)
	}
	return strconv.ParseFloat(m[1], 64)
}
