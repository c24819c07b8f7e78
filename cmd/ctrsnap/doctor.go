package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

func (a *app) doctorCommand() *cli.Command {
	out := newOutput("table", "json")
	var fix bool
	return &cli.Command{
		Name:        "doctor",
		Usage:       "check the daemon and its host; exit code 1 if something is wrong",
		Description: "   ctrsnap doctor\n   ctrsnap doctor --fix",
		Flags: slices.Concat([]cli.Flag{
			&cli.BoolFlag{Name: "fix", Usage: "mend what can be, and say what was done", Destination: &fix},
		}, out.flags()),
		Action: func(ctx context.Context, cmd *cli.Command) error {
			if cmd.Args().Present() {
				return wrongArgs(cmd, "", false)
			}
			d, err := a.connectFor(out)
			if err != nil {
				return err
			}
			ask := api.GetDoctor
			if fix {
				ask = api.FixHost
			}
			return a.printChecks(out, diagnose(client.Do(ctx, d, ask, api.None{})))
		},
	}
}

// diagnose returns the daemon's checks; one that cannot be asked is a finding
// like others.
func diagnose(doc api.Doctor, err error) api.Doctor {
	check := api.Check{Name: "daemon", Status: "ok", Detail: "answers"}
	if err != nil {
		check = api.Check{Name: "daemon", Status: "error", Detail: oneLine(err.Error()), Why: "without it there are no clones"}
		var e *api.Error
		if errors.As(err, &e) {
			check.Fix = e.Hint
		}
	}
	doc.Schema, doc.Checks = api.Schema, append([]api.Check{check}, doc.Checks...)
	return doc
}

func (a *app) printChecks(out *output, doc api.Doctor) error {
	var err error
	switch out.format {
	case "json":
		err = printJSON(a.stdout, doc)
	case "template":
		err = out.execute(a.stdout, doc)
	default:
		err = a.checkTable(doc)
	}
	for _, c := range doc.Checks {
		if c.Status == "error" && err == nil {
			err = &codeError{code: 1}
		}
	}
	return err
}

// checkTable writes the checks, and below each that is not well why it
// matters and what to do.
func (a *app) checkTable(doc api.Doctor) error {
	var rows [][]string
	for _, c := range doc.Checks {
		rows = append(rows, []string{c.Status, c.Name, oneLine(c.Detail)})
	}
	if err := table(a.stdout, "STATUS CHECK DETAIL", rows); err != nil {
		return err
	}
	for _, c := range doc.Checks {
		if c.Status == "ok" {
			continue
		}
		fmt.Fprintf(a.stdout, "\n%s: %s\n", c.Name, c.Status)
		if c.Why != "" {
			fmt.Fprintf(a.stdout, "  why: %s\n", oneLine(c.Why))
		}
		if c.Fix != "" {
			fmt.Fprintf(a.stdout, "  fix: %s\n", oneLine(c.Fix))
		}
	}
	return nil
}
