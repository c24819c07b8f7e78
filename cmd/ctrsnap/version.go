package main

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/cmd/internal/version"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

// versions is the document of `version -o json`.
type versions struct {
	Schema int          `json:"schema"`
	Client api.Version  `json:"client"`
	Daemon *api.Version `json:"daemon,omitempty"`
}

func (a *app) versionCommand() *cli.Command {
	out := newOutput("table", "json")
	var clientOnly bool
	return &cli.Command{
		Name:        "version",
		Usage:       "print the versions of ctrsnap and of the daemon",
		Description: "   ctrsnap version --client",
		Flags: slices.Concat([]cli.Flag{
			&cli.BoolFlag{Name: "client", Usage: "of ctrsnap only; the daemon is not asked", Destination: &clientOnly},
		}, out.flags()),
		Action: func(ctx context.Context, cmd *cli.Command) error {
			if _, err := arguments(cmd); err != nil {
				return err
			}
			if err := out.resolve(a.getenv("CTRSNAP_OUTPUT")); err != nil {
				return err
			}
			v := versions{Schema: api.Schema, Client: clientVersion()}
			var err error
			if !clientOnly {
				v.Daemon, err = a.daemonVersion(ctx)
			}
			if err := printDocument(a.stdout, out, v, versionTable); err != nil {
				return err
			}
			return about(err, "version")
		},
	}
}

func clientVersion() api.Version {
	return api.Version{
		Schema: api.Schema, Version: version.Version, Commit: version.Commit,
		Protocol: api.Protocol, MinProtocol: api.Protocol,
	}
}

// daemonVersion returns the daemon's version, and an error too if it does not
// understand us.
func (a *app) daemonVersion(ctx context.Context) (*api.Version, error) {
	d, err := a.connect()
	if err != nil {
		return nil, err
	}
	v, err := client.Do(ctx, d, api.GetVersion, api.None{})
	if err != nil {
		return nil, err
	}
	return &v, understood(v)
}

// understood says whether a daemon speaks the protocol of this client.
func understood(v api.Version) error {
	older := "ctrsnap"
	switch {
	case api.Protocol > v.Protocol:
		older = "ctrsnapd"
	case api.Protocol >= v.MinProtocol:
		return nil
	}
	return &api.Error{
		Code:    api.CodeGeneral,
		Message: fmt.Sprintf("ctrsnap speaks protocol %d, the daemon %d to %d", api.Protocol, v.MinProtocol, v.Protocol),
		Hint:    "upgrade " + older,
	}
}

func versionTable(w io.Writer, v versions) error {
	printVersion(w, "ctrsnap", v.Client)
	if v.Daemon != nil {
		printVersion(w, "ctrsnapd", *v.Daemon)
	}
	return nil
}

func printVersion(w io.Writer, name string, v api.Version) {
	line := fmt.Sprintf("%s %s, protocol %d", name, v.Version, v.Protocol)
	if v.Commit != "" {
		line += ", commit " + v.Commit
	}
	if v.Containerd != "" {
		line += ", containerd " + v.Containerd
		if v.Embedded {
			line += " (embedded)"
		}
	}
	fmt.Fprintln(w, line)
}
