// Package cmdline has what the commands that people type share: what they say of a
// command line that is wrong.
package cmdline

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// UsageError makes an error of the parser ours: the same words as of other errors, with the
// flag of cmd that was probably meant. see is the command whose --help tells more.
func UsageError(cmd *cli.Command, err error, see string) *api.Error {
	e := &api.Error{Code: api.CodeUsage, Message: err.Error(), Hint: "see " + see + " --help"}
	if name, ok := strings.CutPrefix(e.Message, "flag provided but not defined: -"); ok {
		e.Message = "unknown flag " + dashed(name)
		if s := cli.SuggestFlag(cmd.Flags, name, true); s != "" {
			e.Hint = fmt.Sprintf("did you mean %s? %s", s, e.Hint)
		}
	} else if name, ok := strings.CutPrefix(e.Message, "flag needs an argument: "); ok {
		e.Message = "flag " + name + " needs a value"
	} else if rest, ok := strings.CutPrefix(e.Message, "invalid value "); ok {
		e.Message = "invalid value " + strings.Replace(rest, "for flag -", "for --", 1)
	}
	return e
}

func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}
