package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

// undoTimeout is how long removing what is not wanted any more may take.
const undoTimeout = 10 * time.Second

type cloneOptions struct {
	req      api.CloneRequest
	ifExists string
	labels   pairs
	settings pairs
	timeout  api.Duration
	networks networks
	reach    reach
	limits   limits
	life     life
	names    naming
	connect  bool
	out      *output
}

func (a *app) cloneCommand() *cli.Command {
	o := &cloneOptions{out: newOutput("url", "json", "env", "dotenv", "github", "table", "name")}
	return &cli.Command{
		Name:      "clone",
		Usage:     "make a clone of a golden and print its URL",
		ArgsUsage: "GOLDEN [-- ARG…]",
		Description: `GOLDEN is a name (its current version) or NAME:VERSION. The clone answers when its
URL is printed, and ends after --ttl.

   psql "$(ctrsnap clone shop)"
   eval "$(ctrsnap clone shop --ttl 10m -o env)"
   ctrsnap clone shop --name pr-42 --if-exists reuse --label job=42 -o json
   ctrsnap clone shop --psql`,
		Flags: slices.Concat([]cli.Flag{
			&cli.StringFlag{Name: "name", Usage: "`NAME` of the clone; with --count NAME-1 … NAME-N", Destination: &o.req.Name},
			&cli.StringFlag{Name: "if-exists", Usage: "what to do if a clone of that name exists: `fail|reuse|reset`", DefaultText: "fail", Destination: &o.ifExists, Validator: oneOf("fail", "reuse", "reset")},
			&cli.IntFlag{Name: "count", Usage: "how many clones: all `N` or none", Value: 1, HideDefault: true, Destination: &o.req.Count, Validator: atLeast1},
			durationFlag("ttl", "lifetime `D` (90s, 30m, 2h); default CTRSNAP_TTL, else the daemon's", &o.req.TTL),
			pairsFlag("label", "`K=V` to find the clone by (repeatable)", &o.labels, "l"),
			pairsFlag("set", "server setting `K=V` of this clone (repeatable)", &o.settings),
			&cli.BoolFlag{Name: "password", Usage: "give the clone a password of its own, in place of the golden's", Destination: &o.req.OwnPassword},
			o.networks.flag(),
			waitTimeoutFlag(&o.req.WaitTimeout),
			timeoutFlag(&o.timeout),
			&cli.BoolFlag{Name: "psql", Aliases: []string{"connect"}, Usage: "open the engine's client on the clone, as connect does; what follows -- goes to it", Destination: &o.connect},
		}, o.life.flags(), o.limits.flags(), o.reach.flags(), o.names.flags(), o.out.flags()),
		Action: func(ctx context.Context, cmd *cli.Command) error {
			args, err := arguments(cmd)
			if err != nil {
				return err
			}
			o.req.Golden = args[0]
			return about(a.clone(ctx, o), "clone %s", o.req.Golden)
		},
	}
}

func atLeast1(n int) error {
	if n < 1 {
		return fmt.Errorf("want at least 1")
	}
	return nil
}

// check finds what is wrong before a clone is made.
func (o *cloneOptions) check(a *app) error {
	if o.connect && (o.out.format != "" || o.out.source != "") {
		return usagef("use one of them").of("--psql prints nothing by -o or --format: they exclude each other")
	}
	if err := o.out.resolve(a.getenv("CTRSNAP_OUTPUT")); err != nil {
		return err
	}
	var err error
	if o.req.TTL, err = a.ttl(o.req.TTL); err != nil {
		return err
	}
	if err := o.life.apply(&o.req); err != nil {
		return err
	}
	if o.connect && o.req.Count > 1 {
		return usagef("leave --count away").of("--psql is for one clone")
	}
	if !o.connect && len(a.tail) > 0 {
		return usagef("to run a command with a clone of its own: ctrsnap run %s -- …", o.req.Golden).of("what follows -- is for --psql")
	}
	if o.ifExists != "" && o.req.Name == "" {
		return usagef("add --name").of("--if-exists needs a name")
	}
	if o.out.format == "github" && a.getenv("GITHUB_ENV") == "" {
		return usagef("it is set in jobs of GitHub Actions").of("-o github needs GITHUB_ENV in the environment")
	}
	return nil
}

func (a *app) clone(ctx context.Context, o *cloneOptions) error {
	if err := o.check(a); err != nil {
		return err
	}
	d, err := a.connect()
	if err != nil {
		return err
	}
	ctx, watch, stop := interruptibleLater(ctx) // until the request is out there is nothing to undo
	defer stop()
	ctx, cancel := withTimeout(ctx, time.Duration(o.timeout))
	defer cancel()
	o.networks.apply(&o.req)
	o.req.IfExists, o.req.Labels, o.req.Settings = api.IfExists(o.ifExists), o.labels, o.settings
	o.req.Limits = o.limits.Limits
	o.reach.apply(&o.req)
	resp, err := client.Do(client.OnSent(client.OnAway(client.OnQueue(ctx, a.queued), a.away), watch), d, api.CreateClones, api.CreateArgs{Body: o.req})
	if err != nil {
		return err
	}
	if o.connect {
		c := resp.Clones[0]
		a.hint("clone %s, which lives on after: ctrsnap connect %s; ctrsnap rm %s", c.ID, c.ID, c.ID)
		return a.connectTo(context.WithoutCancel(ctx), d, c.ID, naming{via: o.names.via})
	}
	if err := a.printClones(o.out, o.names, resp.Clones, o.req.Count <= 1); err != nil {
		discard(ctx, d, resp.Clones)
		return err
	}
	return nil
}

// discard removes new clones that the caller did not get to know.
func discard(ctx context.Context, d *client.Client, clones []api.Clone) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	for _, c := range clones {
		if c.Created {
			_ = client.Tell(ctx, d, api.RemoveClone, api.RemoveArgs{ID: c.ID}) // its TTL ends it otherwise
		}
	}
}

// printClones prints clones, of which one alone is a document, with their addresses and variables as n has them.
func (a *app) printClones(out *output, n naming, clones []api.Clone, alone bool) error {
	switch out.format {
	case "json", "yaml":
		if alone {
			return printDocument(a.stdout, out, clones[0], nil)
		}
	case "url":
		return printURLs(a.stdout, n, clones)
	case "env", "dotenv", "github":
		vars, err := n.all(clones, "", !alone)
		if err != nil {
			return err
		}
		if out.format == "github" {
			return a.printGitHub(vars, clones)
		}
		return printVariables(a.stdout, out.format, vars)
	}
	return cloneListing.print(a.stdout, out, clones)
}

func printURLs(w io.Writer, n naming, clones []api.Clone) error {
	var b strings.Builder
	for _, c := range clones {
		_, u, err := n.way(c)
		if err != nil {
			return err
		}
		fmt.Fprintln(&b, u)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func printVariables(w io.Writer, format string, vars []variable) error {
	var b strings.Builder
	for _, v := range vars {
		if format == "env" {
			fmt.Fprintf(&b, "export %s=%s\n", v.name, shellQuote(v.value))
		} else {
			fmt.Fprintf(&b, "%s=%s\n", v.name, dotenvQuote(v.value))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// printGitHub hides the passwords first and then gives the variables to the
// following steps of the job.
func (a *app) printGitHub(vars []variable, clones []api.Clone) error {
	for _, secret := range secrets(clones) {
		if _, err := fmt.Fprintln(a.stdout, githubMask(secret)); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(a.getenv("GITHUB_ENV"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	var b strings.Builder
	for _, v := range vars {
		b.WriteString(githubEntry(v.name, v.value))
	}
	if _, err := f.WriteString(b.String()); err != nil {
		return err
	}
	return f.Close()
}

// secrets returns the passwords, also in the form in which URLs hold them.
func secrets(clones []api.Clone) []string {
	var all []string
	for _, c := range clones {
		if c.Password == "" {
			continue
		}
		all = append(all, c.Password)
		if u, err := url.Parse(c.URL); err == nil {
			if _, coded, ok := strings.Cut(u.User.String(), ":"); ok {
				all = append(all, coded)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}
