package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

func (a *app) doctorCommand() *cli.Command {
	out := newOutput("table", "json")
	var fix bool
	return answering(a, out, &cli.Command{
		Name:        "doctor",
		Usage:       "check the daemon and its host; exit code 1 if something is wrong",
		Description: "   ctrsnap doctor\n   ctrsnap doctor --fix",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "fix", Usage: "mend what can be, and say what was done", Destination: &fix},
		},
	}, func(ctx context.Context, d *client.Client, _ []string) (api.Doctor, error) {
		ask := api.GetDoctor
		if fix {
			ask = api.FixHost
		}
		return diagnose(client.Do(ctx, d, ask, api.None{})), nil
	}, func(doc api.Doctor) error {
		err := printDocument(a.stdout, out, doc, checkTable)
		if err == nil && slices.ContainsFunc(doc.Checks, func(c api.Check) bool { return c.Status == "error" }) {
			err = &codeError{code: 1}
		}
		return err
	})
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
			if e.Code == api.CodeGeneral {
				check.Fix += "; as root, 'ctrsnapd check' says what keeps it from starting"
			}
		}
	}
	doc.Schema, doc.Checks = api.Schema, append([]api.Check{check}, doc.Checks...)
	return doc
}

// checkTable writes the checks, and below each that is not well why it
// matters and what to do.
func checkTable(w io.Writer, doc api.Doctor) error {
	var rows [][]string
	for _, c := range doc.Checks {
		rows = append(rows, []string{c.Status, c.Name, oneLine(c.Detail)})
	}
	if err := table(w, "STATUS CHECK DETAIL", rows); err != nil {
		return err
	}
	for _, c := range doc.Checks {
		if c.Status == "ok" {
			continue
		}
		fmt.Fprintf(w, "\n%s: %s\n", c.Name, c.Status)
		if c.Why != "" {
			fmt.Fprintf(w, "  why: %s\n", oneLine(c.Why))
		}
		if c.Fix != "" {
			fmt.Fprintf(w, "  fix: %s\n", oneLine(c.Fix))
		}
	}
	return nil
}
