package scenario

import (
	"bytes"
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
	for _, load := range []struct{ ratio, builtin string }{
		{"query_select_vs_bare", "select-only"}, {"query_tpcb_vs_bare", "tpcb-like"},
	} {
		if err := t.rates(ctx, program, load.ratio, load.builtin, endpoint(c), b.Endpoint); err != nil {
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

// rates runs one load in turns against both, for some seconds each time. Every
// second is a value.
func (t *take) rates(ctx context.Context, program, ratio, builtin string, clone, bare peer.Endpoint) error {
	rounds, seconds := 4, 6
	if t.Quick {
		rounds, seconds = 1, 1
	}
	over, under := recorder.New("ctrsnap_"+builtin, "pgbench", "1/s"), recorder.New("bare_"+builtin, "pgbench", "1/s")
	arm := func(at peer.Endpoint, r *recorder.Recorder) func(context.Context, int) error {
		return func(ctx context.Context, _ int) error {
			return runPgbench(ctx, program, builtin, seconds, at, r)
		}
	}
	err := interleave(ctx, t, 1, rounds, []*recorder.Recorder{over, under}, arm(clone, over), arm(bare, under))
	t.compare(ratio, over, under)
	return err
}

// progressRE matches a line that pgbench writes each second.
var progressRE = regexp.MustCompile(`(?m)^progress: [0-9.]+ s, ([0-9.]+) tps.* ([0-9]+) failed`)

func runPgbench(ctx context.Context, program, builtin string, seconds int, at peer.Endpoint, r *recorder.Recorder) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds)*time.Second+time.Minute)
	defer cancel()
	port := strings.TrimPrefix(filepath.Ext(at.Socket), ".")
	cmd := exec.CommandContext(ctx, program, "--no-vacuum", "--builtin="+builtin, "--client=4", "--jobs=2",
		"--time="+strconv.Itoa(seconds), "--progress=1", "--host="+filepath.Dir(at.Socket), "--port="+port, "--username="+at.User, at.Database)
	cmd.Env = append(os.Environ(), "PGPASSWORD="+at.Password)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("pgbench: %w: %s", err, out.String())
	}
	values := progressRE.FindAllStringSubmatch(out.String(), -1)
	for _, m := range values {
		tps, err := strconv.ParseFloat(m[1], 64)
		if err != nil || m[2] != "0" {
			return fmt.Errorf("pgbench: failed transactions: %s", out.String())
		}
		r.Add(tps)
	}
	if len(values) == 0 {
		return fmt.Errorf("pgbench: no rate in %q", out.String())
	}
	return nil
}
