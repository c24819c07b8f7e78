package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

// Exit codes of run, beside those of the command.
const (
	exitBefore      = 125 // ctrsnap failed before the command started
	exitNotExecuted = 126
	exitNotFound    = 127
)

// Values of --on-lost.
const (
	onLostKeep = "keep"
	onLostTerm = "term"
)

// keepDefault is how long --keep-on-failure keeps clones.
const keepDefault = 2 * time.Hour

type runOptions struct {
	count    int
	labels   pairs
	settings pairs
	networks networks
	keep     optional
	quiet    bool
	wait     api.Duration
	password bool
	timeout  api.Duration
	onLost   string
	reach    reach
	limits   limits
	names    naming
	sources  sources
}

func (a *app) runCommand() *cli.Command {
	o := &runOptions{}
	o.keep.check = isDuration
	return &cli.Command{
		Name:      "run",
		Usage:     "run a command with clones of its own, and destroy them after",
		ArgsUsage: "GOLDEN… -- CMD [ARG…]",
		Description: `The command finds its database in DATABASE_URL and the engine's own variables
(PGHOST, MYSQL_HOST, REDIS_URL …); with several goldens, which may be of several engines, in
SHOP_DATABASE_URL, SHOP_PGHOST … each, with --count in DATABASE_URL_1 … _N. Signals reach the command, and its exit code is returned; 125
means that it was not started, 126 that it could not be, 127 that it was not found,
128+n that signal n ended it. If ctrsnap itself is killed, the daemon destroys the
clones and the command gets SIGTERM: its database is gone. A daemon that restarts or is
upgraded meanwhile ends neither. Should the daemon say that the clones are gone, the
command gets SIGTERM, and the exit code is 143; with --on-lost=keep it runs on.

With --key and the sources of golden build, a golden is built first where none has
that key.

   ctrsnap run shop -- go test ./...
   ctrsnap run shop orders --keep-on-failure -- make check
   ctrsnap run --key 'db/migrations/**' --exec 'make migrate seed' shop -- go test ./...`,
		Flags: slices.Concat([]cli.Flag{
			&cli.IntFlag{Name: "count", Usage: "`N` clones of each golden", Value: 1, HideDefault: true, Destination: &o.count, Validator: atLeast1},
			optionalFlag("keep-on-failure", "keep the clones if the command fails, for 2h or as long as `[=D]` says", &o.keep),
			&cli.StringFlag{Name: "on-lost", Usage: "what to do with the command if its clones are lost: `keep|term`", DefaultText: "term", Value: onLostTerm, Destination: &o.onLost, Validator: oneOf(onLostKeep, onLostTerm)},
			pairsFlag("label", "`K=V` to find the clones by (repeatable)", &o.labels, "l"),
			pairsFlag("set", "server setting `K=V` of the clones (repeatable)", &o.settings),
			&cli.BoolFlag{Name: "clone-password", Usage: "give the clones passwords of their own", Destination: &o.password},
			o.networks.flag(),
			waitTimeoutFlag(&o.wait),
			durationFlag("timeout", "give up if the clones are not there after `D`; does not limit the command", &o.timeout),
			quietFlag(&o.quiet, "no progress of a build"),
		}, o.limits.flags(), o.reach.flags(), o.names.flags(), o.sources.flags("golden-set")),
		Action: func(ctx context.Context, cmd *cli.Command) error {
			names, err := arguments(cmd)
			if err == nil {
				err = a.checkRun(o, names)
			}
			if err != nil {
				return &codeError{exitBefore, about(err, "run")}
			}
			return a.runJob(ctx, o, names)
		},
	}
}

// checkRun finds what is wrong with the command line.
func (a *app) checkRun(o *runOptions, names []string) error {
	hint := usagef("usage: ctrsnap run [flags] GOLDEN… -- CMD [ARG…]")
	if o.reach.ip != "" && (len(names) > 1 || o.count > 1) {
		return usagef("leave it away, or ask for one clone").of("--ip is for one clone")
	}
	if a.tail == nil {
		return hint.of("-- and the command are missing")
	}
	if len(a.tail) == 0 {
		return hint.of("the command after -- is missing")
	}
	if o.sources.any() {
		if len(o.sources.keys) == 0 {
			return usagef("--key says when a golden has to be built anew").of("the sources of a golden need --key")
		}
		if len(names) > 1 || strings.Contains(names[0], ":") {
			return usagef("give the golden's name alone").of("with --key there is one golden, without a version")
		}
	}
	seen := map[string]string{}
	for _, name := range names {
		g := groupOf(name)
		if seen[g] != "" {
			return usagef("use --count for several clones of one golden").of("%s and %s would both set %sDATABASE_URL", seen[g], name, g)
		}
		seen[g] = name
	}
	return nil
}

// groupOf returns what the variables of a golden begin with, where there are
// several: "SHOP_".
func groupOf(golden string) string {
	name, _, _ := strings.Cut(golden, ":")
	name = strings.ToUpper(strings.ReplaceAll(name, "-", "_")) + "_"
	if name[0] >= '0' && name[0] <= '9' {
		name = "_" + name // a variable must not begin with a digit
	}
	return name
}

// runJob makes the clones, runs the command and destroys the clones.
func (a *app) runJob(ctx context.Context, o *runOptions, names []string) error {
	what := "run " + strings.Join(names, " ")
	path, err := findCommand(a.tail[0])
	if err != nil {
		return about(err, "%s", what)
	}
	d, err := a.connect()
	if err != nil {
		return &codeError{exitBefore, about(err, "%s", what)}
	}
	j := &job{daemon: d}
	defer j.end()
	env, err := a.startJob(ctx, o, j, names)
	if err != nil {
		return beforeStart(about(err, "%s", what))
	}
	c := &child{path: path, args: a.tail, env: env, files: []*os.File{a.stdin, a.stdout, a.stderr}}
	code, told, err := c.run(j.lost(), func() (end bool) {
		end = o.onLost == onLostTerm
		next := "the command runs on"
		if end {
			next = "the command gets SIGTERM"
		}
		a.hint("%s: its clones are lost, %s: %v", what, next, j.lease.Err())
		return end
	})
	if err != nil {
		return about(err, "%s", what)
	}
	if code == 0 {
		return nil
	}
	if o.keep.set && !told {
		a.keep(ctx, o, j)
	}
	return &codeError{code: code}
}

// beforeStart gives err the exit code that says that the command did not run,
// unless a signal is why.
func beforeStart(err error) error {
	var s *signalError
	if errors.As(err, &s) {
		return err
	}
	return &codeError{exitBefore, err}
}

// startJob builds what is to be built, makes the clones and returns the
// environment of the command.
func (a *app) startJob(ctx context.Context, o *runOptions, j *job, names []string) ([]string, error) {
	ctx, stop := interruptible(ctx)
	defer stop()
	ctx, cancel := withTimeout(ctx, time.Duration(o.timeout))
	defer cancel()
	ctx = client.OnAway(client.OnQueue(ctx, a.queued), a.away)
	refs := slices.Clone(names)
	if o.sources.any() {
		b, err := o.sources.resolve(names[0], a.getenv, knower(ctx, j.daemon))
		if err != nil {
			return nil, err
		}
		g, err := a.golden(ctx, j.daemon, b, o.quiet)
		if err != nil {
			return nil, err
		}
		refs[0] = refOf(g)
	}
	var vars []variable
	var misleading []string
	for i, ref := range refs {
		req := api.CloneRequest{
			Golden: ref, Count: o.count, Labels: o.labels, Settings: o.settings, OwnPassword: o.password, WaitTimeout: o.wait,
			Limits: o.limits.Limits,
		}
		o.reach.apply(&req)
		o.networks.apply(&req)
		clones, err := j.clone(ctx, req)
		if err != nil {
			return nil, about(err, "clone %s", ref)
		}
		group := ""
		if len(refs) > 1 {
			group = groupOf(names[i])
		}
		v, err := o.names.all(clones, group, o.count > 1)
		if err != nil {
			return nil, err
		}
		vars = append(vars, v...)
		for _, c := range clones {
			misleading = append(misleading, c.UnsetEnv...)
		}
	}
	return withVariables(a.environ(), vars, misleading), nil
}

// job holds the clones of one run by a lease.
type job struct {
	daemon *client.Client
	clones []api.Clone
	lease  *client.Lease
	id     string // of the lease
	kept   bool
}

// clone adds clones to the job. The first ones open its lease.
func (j *job) clone(ctx context.Context, req api.CloneRequest) ([]api.Clone, error) {
	req.Lease, req.LeaseID = api.LeaseConnection, j.id
	resp, err := client.Do(ctx, j.daemon, api.CreateClones, api.CreateArgs{Body: req})
	if err != nil {
		return nil, err
	}
	j.clones = append(j.clones, resp.Clones...)
	if j.lease == nil {
		j.id = resp.LeaseID
		// The lease outlives ctx, which ends before the command starts, but is not waited for beyond it.
		held, giveUp := context.WithCancelCause(context.WithoutCancel(ctx))
		defer context.AfterFunc(ctx, func() { giveUp(context.Cause(ctx)) })()
		j.lease, err = j.daemon.HoldLease(held, j.id)
	}
	return resp.Clones, err
}

// lost is closed when the clones have lost their lease.
func (j *job) lost() <-chan struct{} { return j.lease.Done() }

// end removes the clones, unless they are kept, and gives up the lease. They
// are removed one by one first, so that they are gone when the command
// line is back at its prompt; the lease is for those whose removal fails.
func (j *job) end() {
	if !j.kept {
		j.remove()
	}
	if j.lease != nil {
		j.lease.Close()
	}
}

func (j *job) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), undoTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, c := range j.clones {
		wg.Go(func() { _ = client.Tell(ctx, j.daemon, api.RemoveClone, api.RemoveArgs{ID: c.ID}) })
	}
	wg.Wait()
}

// keep makes the clones live by time instead of the job's lease, and says
// how to reach them. Those that cannot be kept go with the lease.
func (a *app) keep(ctx context.Context, o *runOptions, j *job) {
	ttl := keepDefault
	if o.keep.value != "" {
		ttl, _ = time.ParseDuration(o.keep.value) // was checked
	}
	ctx, cancel := context.WithTimeout(ctx, undoTimeout)
	defer cancel()
	j.kept = true
	for _, c := range j.clones {
		kept, err := client.Do(ctx, j.daemon, api.ExtendClone, api.ExtendArgs{ID: c.ID, Body: api.ExtendRequest{TTL: api.Duration(ttl)}})
		if err != nil {
			a.printError(fmt.Errorf("keep clone %s: %w", c.ID, err), false)
			continue
		}
		until := ""
		if kept.ExpiresAt != nil {
			until = " until " + kept.ExpiresAt.Local().Format(time.RFC3339)
		}
		_, url, err := o.names.way(c)
		if err != nil {
			url = c.URL
		}
		a.hint("clone %s of %s is kept%s: %s", c.ID, c.Golden, until, url)
		fmt.Fprintf(a.stderr, "hint: ctrsnap connect %s; when done: ctrsnap rm %s\n", c.ID, c.ID)
	}
}
