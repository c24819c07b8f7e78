package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

func (a *app) goldenCommand() *cli.Command {
	return &cli.Command{
		Name:  "golden",
		Usage: "build, list and remove goldens",
		Commands: []*cli.Command{
			a.goldenBuildCommand(), a.goldenLsCommand(), a.goldenInspectCommand(), a.goldenHistoryCommand(),
			a.goldenRmCommand(), a.goldenPruneCommand(), a.goldenPromoteCommand(), a.goldenRollbackCommand(), a.goldenVerifyCommand(), a.goldenAccessCommand(),
		},
	}
}

func (a *app) goldenBuildCommand() *cli.Command {
	s, out := &sources{}, newOutput("ref", "json")
	var quiet bool
	var timeout api.Duration
	return &cli.Command{
		Name:      "build",
		Usage:     "build a golden and print its reference",
		ArgsUsage: "NAME",
		Description: `Takes one base (default --from-host), then data and refinements. The new version
becomes the current one. With --key nothing is built if a version was built from the same
files of the key, with the same base, sources, commands, login, variables and settings.

   ctrsnap golden build shop --init schema.sql --exec 'make seed'
   ctrsnap golden build shop --from-dump shop.dump --mask mask.sql
   ctrsnap golden build shop --key 'db/migrations/**' --exec 'make migrate'`,
		Flags: slices.Concat([]cli.Flag{
			quietFlag(&quiet, "no progress"), timeoutFlag(&timeout),
			&cli.BoolFlag{Name: "force", Usage: "also if the current version is of another engine", Destination: &s.req.Force},
		}, out.flags(), s.flags("set")),
		Action: func(ctx context.Context, cmd *cli.Command) error {
			args, err := arguments(cmd)
			if err != nil {
				return err
			}
			return about(a.goldenBuild(ctx, args[0], s, out, quiet, timeout), "golden build %s", args[0])
		},
	}
}

func (a *app) goldenBuild(ctx context.Context, name string, s *sources, out *output, quiet bool, timeout api.Duration) error {
	if err := out.resolve(a.getenv("CTRSNAP_OUTPUT")); err != nil {
		return err
	}
	d, err := a.connect()
	if err != nil {
		return err
	}
	b, err := s.resolve(name, a.getenv, knower(ctx, d))
	if err != nil {
		return err
	}
	ctx, stop := interruptible(ctx)
	defer stop()
	ctx, cancel := withTimeout(ctx, time.Duration(timeout))
	defer cancel()
	g, err := a.golden(ctx, d, b, quiet)
	if err != nil {
		return err
	}
	return printDocument(a.stdout, out, g, printRef)
}

func printRef(w io.Writer, g api.Golden) error {
	_, err := fmt.Fprintln(w, refOf(g))
	return err
}

var goldenListing = listing[api.Golden]{"goldens", "NAME VERSION CURRENT ENGINE SIZE AGE CLONES", func(g api.Golden) []string {
	current := ""
	if g.Current {
		current = "*"
	}
	if !g.DamagedAt.IsZero() {
		current += "damaged"
	}
	return []string{
		g.Name, strconv.Itoa(g.Version), current, g.Engine + " " + g.EngineVersion, size(g.SizeBytes),
		age(time.Since(g.CreatedAt)), strconv.Itoa(g.Clones),
	}
}, refOf}

func (a *app) goldenLsCommand() *cli.Command {
	return listCommand(a, goldenListing, &cli.Command{
		Name:        "ls",
		Aliases:     []string{"list"},
		Usage:       "list goldens, with all their versions",
		ArgsUsage:   "[NAME]",
		Description: "   ctrsnap golden ls\n   ctrsnap golden ls shop -o json",
	}, goldensNamed)
}

// goldensNamed returns all versions of a golden, or of all goldens if no name is given.
func goldensNamed(ctx context.Context, d *client.Client, names []string) ([]api.Golden, error) {
	return client.Do(ctx, d, api.ListGoldens, api.ListGoldensArgs{Name: strings.Join(names, "")})
}

func (a *app) goldenInspectCommand() *cli.Command {
	return inspectCommand(a, goldenListing, "GOLDEN", "golden inspect", byRef(api.GetGolden), &cli.Command{
		Name:        "inspect",
		Usage:       "show all that is known of a golden",
		Description: "   ctrsnap golden inspect shop:3\n   ctrsnap golden inspect shop --format '{{.version}}'",
	})
}

var goldenHistory = listing[api.Golden]{"goldens", "GOLDEN AGE BUILDER TOOK SIZE BASE SOURCES KEY", func(g api.Golden) []string {
	return []string{
		refOf(g), age(time.Since(g.CreatedAt)), g.Builder, fmt.Sprintf("%.1fs", g.BuildSeconds), size(g.SizeBytes),
		g.Base.Kind + " " + g.Base.Ref, sourceNames(g.Sources), g.Key,
	}
}, refOf}

func (a *app) goldenHistoryCommand() *cli.Command {
	return listCommand(a, goldenHistory, &cli.Command{
		Name:        "history",
		Usage:       "list the versions of a golden, newest first, with what they were built from",
		ArgsUsage:   "NAME",
		Description: "   ctrsnap golden history shop",
	}, func(ctx context.Context, d *client.Client, args []string) ([]api.Golden, error) {
		list, err := goldensNamed(ctx, d, args)
		if err == nil && len(list) == 0 {
			err = &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("golden %s: not found", args[0]), Hint: "ctrsnap golden ls lists those that are there"}
		}
		slices.SortFunc(list, func(x, y api.Golden) int { return y.Version - x.Version })
		return list, err
	})
}

func sourceNames(list []api.Source) string {
	s := ""
	for i, src := range list {
		if i > 0 {
			s += ", "
		}
		s += src.Kind + " " + src.Name
	}
	return s
}

// byRef is a route that takes the golden's reference alone.
func byRef(r api.Route[api.GoldenArgs, api.Golden]) func(context.Context, *client.Client, string) (api.Golden, error) {
	return func(ctx context.Context, d *client.Client, ref string) (api.Golden, error) {
		return client.Do(ctx, d, r, api.GoldenArgs{Ref: ref})
	}
}

func rollback(ctx context.Context, d *client.Client, name string) (api.Golden, error) {
	return client.Do(ctx, d, api.RollbackGolden, api.GoldenNameArgs{Name: name})
}

func (a *app) goldenRmCommand() *cli.Command {
	return &cli.Command{
		Name:        "rm",
		Usage:       "remove a version of a golden, or all of them",
		ArgsUsage:   "GOLDEN…",
		Description: "NAME:VERSION is one version, NAME all versions. One with clones is refused.\n\n   ctrsnap golden rm shop:2",
		Action: func(ctx context.Context, cmd *cli.Command) error {
			refs, err := arguments(cmd)
			if err != nil {
				return err
			}
			d, err := a.connect()
			if err != nil {
				return err
			}
			return a.each(refs, func(ref string) error {
				return about(client.Tell(ctx, d, api.RemoveGolden, api.GoldenArgs{Ref: ref}), "golden rm %s", ref)
			})
		},
	}
}

var prunedListing = listing[api.Golden]{"goldens", "GOLDEN SIZE AGE UNUSED", func(g api.Golden) []string {
	return []string{refOf(g), size(g.SizeBytes), age(time.Since(g.CreatedAt)), age(time.Since(g.UsedAt))}
}, refOf}

func (a *app) goldenPruneCommand() *cli.Command {
	var req api.PruneRequest
	return listCommand(a, prunedListing, &cli.Command{
		Name:      "prune",
		Usage:     "remove versions of goldens that nobody wants any more, and list them",
		ArgsUsage: "[NAME]",
		Description: `Of all goldens that you may remove, or of one, those go that are neither among the newest
versions nor used lately: at least one of --keep and --unused-for says so. The current
version stays, and so do those that have clones, that others are built on, or that are
protected: see ctrsnap golden access. build.keep and build.unused_for of the daemon's
configuration have it done all the time.

   ctrsnap golden prune --keep 5
   ctrsnap golden prune shop --unused-for 168h --dry-run`,
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "keep", Usage: "the newest `N` versions of each name stay", Destination: &req.Keep},
			durationFlag("unused-for", "what was used within `D` stays (90m, 168h)", &req.UnusedFor),
			&cli.BoolFlag{Name: "dry-run", Usage: "only list what would be removed", Destination: &req.DryRun},
		},
	}, func(ctx context.Context, d *client.Client, args []string) ([]api.Golden, error) {
		req.Name = strings.Join(args, "")
		return client.Do(ctx, d, api.PruneGoldens, api.PruneArgs{Body: req})
	})
}

// each does something to every name, prints those where it went well, and
// returns the errors of the others.
func (a *app) each(names []string, do func(string) error) error {
	var errs []error
	for _, name := range names {
		if err := do(name); err != nil {
			errs = append(errs, err)
		} else if _, err := fmt.Fprintln(a.stdout, name); err != nil {
			return err
		}
	}
	return errors.Join(errs...)
}

func (a *app) goldenPromoteCommand() *cli.Command {
	return a.moveCommand("promote", "make a version of a golden the current one", "NAME:VERSION", "   ctrsnap golden promote shop:2", byRef(api.PromoteGolden))
}

func (a *app) goldenRollbackCommand() *cli.Command {
	return a.moveCommand("rollback", "make the version before the current one current", "NAME", "   ctrsnap golden rollback shop", rollback)
}

func (a *app) goldenVerifyCommand() *cli.Command {
	return a.moveCommand("verify", "read a golden whole and compare it with what was built", "GOLDEN", "   ctrsnap golden verify shop:2", byRef(api.VerifyGolden))
}

// moveCommand is a command that does something to one golden and prints which.
func (a *app) moveCommand(name, usage, arg, example string, move func(context.Context, *client.Client, string) (api.Golden, error)) *cli.Command {
	c := &cli.Command{Name: name, Usage: usage, ArgsUsage: arg, Description: example}
	return showCommand(a, newOutput("ref", "json"), c, func(ctx context.Context, d *client.Client, args []string) (api.Golden, error) {
		return move(ctx, d, args[0])
	}, printRef)
}
