package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/urfave/cli/v3"
	"golang.org/x/term"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

func (a *app) rmCommand() *cli.Command {
	var all, force bool
	var labels pairs
	return &cli.Command{
		Name:        "rm",
		Aliases:     []string{"remove"},
		Usage:       "remove clones and print what was removed",
		ArgsUsage:   "ID…",
		Description: "Removes all that it can and reports the others.\n\n   ctrsnap rm pr-42\n   ctrsnap rm --label job=42\n   ctrsnap rm --all",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "all clones; a person is asked where some are of running jobs or other users, unless with --force", Destination: &all},
			pairsFlag("label", "all clones with the label `K=V` (repeatable)", &labels, "l"),
			&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "remove protected clones, too; one that does not exist is no error", Destination: &force},
		},
		Action: func(ctx context.Context, cmd *cli.Command) error {
			ids := cmd.Args().Slice()
			chosen := all || len(labels) > 0
			if chosen && len(ids) > 0 {
				return usagef("use one of them").of("rm: IDs and --all or --label exclude each other")
			}
			if !chosen && len(ids) == 0 {
				return wrongArgs(cmd, "ID", true)
			}
			d, err := a.connect()
			if err != nil {
				return err
			}
			if chosen {
				list, err := clonesWith(ctx, d, labels)
				if err != nil {
					return about(err, "rm")
				}
				if all && !force {
					if ok, err := a.mayRemove(list); err != nil || !ok {
						return about(err, "rm")
					}
				}
				for _, c := range list {
					ids = append(ids, c.ID)
				}
			}
			return a.each(ids, func(id string) error {
				err := client.Tell(ctx, d, api.RemoveClone, api.RemoveArgs{ID: id, Force: force})
				if notFound(err) && (force || chosen) { // gone by itself since it was listed
					return nil
				}
				return about(err, "rm %s", id)
			})
		},
	}
}

func notFound(err error) bool { return notFoundError(err) != nil }

func notFoundError(err error) *api.Error {
	var e *api.Error
	if errors.As(err, &e) && e.Code == api.CodeNotFound {
		return e
	}
	return nil
}

// mayRemove asks a person before clones go that are of running jobs or of other users. Who is no terminal is not asked,
// but told.
func (a *app) mayRemove(clones []api.Clone) (bool, error) {
	jobs, owners := 0, map[string]bool{}
	for _, c := range clones {
		if c.LeaseID != "" {
			jobs++
		}
		owners[c.Owner] = true
	}
	if jobs == 0 && len(owners) < 2 {
		return true, nil
	}
	what := fmt.Sprintf("all clones: %d, %d of them of running jobs; their owners: %s", len(clones), jobs, strings.Join(slices.Sorted(maps.Keys(owners)), ", "))
	if !term.IsTerminal(int(a.stdin.Fd())) || !term.IsTerminal(int(a.stderr.Fd())) {
		a.hint("rm --all: %s", what)
		return true, nil
	}
	fmt.Fprintf(a.stderr, "remove %s? [y/N] ", what)
	answer, err := bufio.NewReader(a.stdin).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return slices.Contains([]string{"y", "yes"}, strings.ToLower(strings.TrimSpace(answer))), nil
}
