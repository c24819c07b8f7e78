package cmdline

import (
	"errors"
	"testing"

	"github.com/urfave/cli/v3"
)

func TestNearest(t *testing.T) {
	verbs := []string{"clone", "run", "ls", "inspect", "golden", "gc", "a"}
	for word, want := range map[string]string{
		"clnoe": "clone", "clones": "clone", "goldne": "golden", "rnu": "run", "inspcet": "inspect", "sl": "ls",
		"x": "", "xyz": "", "help": "", "frobnicate": "", "": "", "b": "",
	} {
		if got := Nearest(word, verbs); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
}

func TestUsageError(t *testing.T) {
	cmd := &cli.Command{Flags: []cli.Flag{&cli.IntFlag{Name: "count"}, &cli.BoolFlag{Name: "force", Aliases: []string{"f"}}}}
	for message, want := range map[string][2]string{
		"flag provided but not defined: -cuont":                                                {"unknown flag --cuont", "did you mean --count? see x --help"},
		"flag provided but not defined: -bogus":                                                {"unknown flag --bogus", "see x --help"},
		"flag needs an argument: -count":                                                       {"flag -count needs a value", "see x --help"},
		`invalid value "x" for flag -count: strconv.ParseInt: parsing "x": invalid syntax`:     {`invalid value "x" for --count: want a whole number`, "see x --help"},
		`invalid value "9" for flag -count: strconv.ParseInt: parsing "9": value out of range`: {`invalid value "9" for --count: want a number that is not as large`, "see x --help"},
		`invalid value "x" for flag -force: strconv.ParseBool: parsing "x": invalid syntax`:    {`invalid value "x" for --force: want true or false`, "see x --help"},
		`invalid value "x" for flag -cpus: strconv.ParseFloat: parsing "x": invalid syntax`:    {`invalid value "x" for --cpus: want a number`, "see x --help"},
		`invalid value "0" for flag -count: want at least 1`:                                   {`invalid value "0" for --count: want at least 1`, "see x --help"},
	} {
		if e := UsageError(cmd, errors.New(message), "x"); e.Message != want[0] || e.Hint != want[1] {
			t.Errorf("%s: %q, %q", message, e.Message, e.Hint)
		}
	}
}
