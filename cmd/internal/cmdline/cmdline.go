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
		var names []string
		for _, f := range cmd.Flags {
			names = append(names, f.Names()...)
		}
		if s := Nearest(name, names); s != "" {
			e.Hint = fmt.Sprintf("did you mean %s? %s", dashed(s), e.Hint)
		}
	} else if name, ok := strings.CutPrefix(e.Message, "flag needs an argument: "); ok {
		e.Message = "flag " + name + " needs a value"
	} else if rest, ok := strings.CutPrefix(e.Message, "invalid value "); ok {
		e.Message = "invalid value " + plain(strings.Replace(rest, "for flag -", "for --", 1))
	}
	return e
}

// plain says what Go's parsers of numbers say in words for people.
func plain(message string) string {
	value, why, ok := strings.Cut(message, ": strconv.")
	if !ok {
		return message
	}
	want := "a whole number"
	switch {
	case strings.HasSuffix(why, "value out of range"):
		want = "a number that is not as large"
	case strings.HasPrefix(why, "ParseFloat"):
		want = "a number"
	case strings.HasPrefix(why, "ParseBool"):
		want = "true or false"
	}
	return value + ": want " + want
}

// Nearest returns the one of names that was probably meant by word: one letter in three may be wrong, missing, added or
// in its neighbour's place. "" is none.
func Nearest(word string, names []string) (nearest string) {
	least := max(len(word)/3, 1) + 1
	if len(word) < 2 {
		return "" // anything would do
	}
	for _, name := range names {
		if d := distance(word, name); len(name) > 1 && d < least {
			least, nearest = d, name
		}
	}
	return nearest
}

// distance counts the letters by which a and b differ: the optimal string alignment.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	before, last := []int(nil), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			wrong := 1
			if a[i] == b[j] {
				wrong = 0
			}
			row[j+1] = min(last[j]+wrong, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}

func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}
