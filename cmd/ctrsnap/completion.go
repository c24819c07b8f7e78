package main

import (
	"context"
	_ "embed" // the scripts
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

// completeVerb is what the shells' scripts call: its arguments are the words up
// to the cursor, its output the candidates, one a line, with a description
// after a tab.
const completeVerb = "__complete"

// completeTimeout bounds how long a shell waits for names of the daemon.
const completeTimeout = 500 * time.Millisecond

//go:embed completion.bash
var bashScript string

//go:embed completion.zsh
var zshScript string

//go:embed completion.fish
var fishScript string

var completionScripts = map[string]string{"bash": bashScript, "zsh": zshScript, "fish": fishScript}

func (a *app) completionCommand() *cli.Command {
	return &cli.Command{
		Name:      "completion",
		Usage:     "print the completion script of a shell",
		ArgsUsage: "SHELL",
		Description: `Names of goldens and clones are completed too. SHELL is bash, zsh or fish.

   source <(ctrsnap completion bash)                                   # in .bashrc
   source <(ctrsnap completion zsh)                                    # in .zshrc, after compinit
   ctrsnap completion fish > ~/.config/fish/completions/ctrsnap.fish`,
		Action: func(_ context.Context, cmd *cli.Command) error {
			args, err := arguments(cmd)
			if err != nil {
				return err
			}
			script, ok := completionScripts[args[0]]
			if !ok {
				return usagef("shells are: bash, zsh, fish").of("completion: unknown shell %q", args[0])
			}
			_, err = fmt.Fprint(a.stdout, script)
			return err
		},
	}
}

// candidate is one thing that the word under the cursor may become.
type candidate struct{ word, about string }

// complete prints the candidates for the last word. Errors are silence: a
// shell has no place to show them.
func (a *app) complete(words []string) int {
	if len(words) == 0 || slices.Contains(words[:len(words)-1], "--") {
		return 0
	}
	cur := words[len(words)-1]
	for _, c := range a.candidates(words[:len(words)-1], cur) {
		if strings.HasPrefix(c.word, cur) {
			fmt.Fprintf(a.stdout, "%s\t%s\n", c.word, c.about)
		}
	}
	return 0
}

func (a *app) candidates(before []string, cur string) []candidate {
	a.host = a.getenv("CTRSNAP_HOST")
	cmd, awaited := descend(a.root(nil), before)
	switch {
	case awaited != nil:
		return flagValues(awaited)
	case strings.HasPrefix(cur, "-"):
		return flagNames(cmd)
	case len(cmd.Commands) > 0:
		return subcommands(cmd)
	}
	return a.names(strings.Fields(cmd.ArgsUsage))
}

// descend follows the words to the command that they name. awaited is the flag
// whose value comes next.
func descend(cmd *cli.Command, words []string) (_ *cli.Command, awaited cli.Flag) {
	for _, w := range words {
		switch {
		case awaited != nil:
			awaited = nil
		case strings.HasPrefix(w, "-"):
			awaited = takesValue(cmd, w)
		case cmd.Command(w) != nil:
			cmd = cmd.Command(w)
		}
	}
	return cmd, awaited
}

func takesValue(cmd *cli.Command, word string) cli.Flag {
	name := strings.TrimLeft(word, "-")
	for _, f := range cmd.Flags {
		if _, isBool := f.(*cli.BoolFlag); isBool || !slices.Contains(f.Names(), name) {
			continue
		}
		if g, ok := f.(*cli.GenericFlag); ok {
			if _, opt := g.Value.(*optional); opt {
				return nil
			}
		}
		return f
	}
	return nil
}

// flagValues returns the values of a flag that has a fixed set of them; the
// shell completes files for the others.
func flagValues(f cli.Flag) []candidate {
	var words []string
	switch f.Names()[0] {
	case "output":
		words = allFormats
	case "via":
		words = []string{"tcp", "socket"}
	case "on-lost":
		words = []string{onLostKeep, onLostTerm}
	case "if-exists":
		words = []string{"fail", "reuse", "reset"}
	}
	var list []candidate
	for _, w := range words {
		list = append(list, candidate{w, ""})
	}
	return list
}

func flagNames(cmd *cli.Command) []candidate {
	var list []candidate
	for _, f := range cmd.Flags {
		usage := ""
		if d, ok := f.(cli.DocGenerationFlag); ok {
			usage = strings.ReplaceAll(d.GetUsage(), "`", "")
		}
		list = append(list, candidate{"--" + f.Names()[0], usage})
	}
	return append(list, candidate{"--help", "show help"})
}

func subcommands(cmd *cli.Command) []candidate {
	var list []candidate
	for _, sub := range cmd.Commands {
		list = append(list, candidate{sub.Name, sub.Usage})
	}
	return list
}

// names returns what exists of the kind of thing that a command takes.
func (a *app) names(usage []string) []candidate {
	if len(usage) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), completeTimeout)
	defer cancel()
	d, err := a.connect()
	if err != nil {
		return nil
	}
	switch strings.Trim(usage[0], "[]…") {
	case "GOLDEN", "NAME", "NAME:VERSION":
		list, _ := client.Do(ctx, d, api.ListGoldens, api.ListGoldensArgs{})
		return goldenNames(list)
	case "ID":
		list, _ := client.Do(ctx, d, api.ListClones, api.ListClonesArgs{})
		return cloneNames(list)
	case "SHELL":
		return []candidate{{"bash", ""}, {"zsh", ""}, {"fish", ""}}
	}
	return nil
}

func goldenNames(list []api.Golden) []candidate {
	var names []candidate
	for _, g := range list {
		about := g.Engine + " " + g.EngineVersion
		if g.Current {
			names = append(names, candidate{g.Name, about})
		}
		names = append(names, candidate{refOf(g), about})
	}
	return names
}

func cloneNames(list []api.Clone) []candidate {
	var names []candidate
	for _, c := range list {
		if c.Name != "" {
			names = append(names, candidate{c.Name, "clone of " + c.Golden})
		}
		names = append(names, candidate{c.ID, "clone of " + c.Golden})
	}
	return names
}
