package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/cmd/internal/cmdline"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// codeError ends the command with an exit code of its own. Without err
// nothing is printed: what there was to say has been said.
type codeError struct {
	code int
	err  error
}

func (e *codeError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *codeError) Unwrap() error { return e.err }

// signalError is the cause of a context that a signal ended.
type signalError struct{ sig syscall.Signal }

func (e *signalError) Error() string { return "interrupted by signal: " + e.sig.String() }

// usageHint makes usage errors with a hint.
type usageHint string

func usagef(hint string, args ...any) usageHint { return usageHint(fmt.Sprintf(hint, args...)) }

func (h usageHint) of(format string, args ...any) error {
	return &api.Error{Code: api.CodeUsage, Message: fmt.Sprintf(format, args...), Hint: string(h)}
}

// usageErrorOf makes an error of the command line's parser ours: the same
// words as other errors, with what was probably meant.
func usageErrorOf(_ context.Context, cmd *cli.Command, err error, _ bool) error {
	var e *api.Error
	if errors.As(err, &e) {
		return err
	}
	err = cmdline.UsageError(cmd, err, strings.TrimSpace("ctrsnap "+verb(cmd)))
	if v := verb(cmd); v != "" {
		err = fmt.Errorf("%s: %w", v, err)
	}
	if cmd.Name == "run" {
		return &codeError{exitBefore, err} // 2 may be the command's
	}
	return err
}

// about puts what the command was doing before err, unless err says so itself.
func about(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	what := fmt.Sprintf(format, args...)
	if strings.HasPrefix(err.Error(), what) || saysGolden(err.Error(), what) {
		return err
	}
	return fmt.Errorf("%s: %w", what, err)
}

// saysGolden says whether a message begins with what the daemon was doing, "build golden shop", where what is
// "golden build shop".
func saysGolden(message, what string) bool {
	words := strings.Fields(what)
	if len(words) < 3 || words[0] != "golden" {
		return false
	}
	doing, rest, found := strings.Cut(message, " golden ")
	return found && len(strings.Fields(doing)) <= 2 && !strings.Contains(doing, ":") && strings.HasPrefix(rest, words[len(words)-1])
}

// document returns err as the API's error: class, one line, hint.
func document(err error) api.Error {
	doc := api.Error{Code: api.CodeGeneral}
	var e *api.Error
	switch {
	case errors.As(err, &e):
		doc = *e
	case errors.Is(err, context.DeadlineExceeded):
		doc.Code, doc.Retryable = api.CodeTimeout, true
	}
	doc.Message, doc.Hint = oneLine(err.Error()), oneLine(doc.Hint)
	doc.Hint = strings.ReplaceAll(doc.Hint, "if_exists=", "--if-exists ") // the API's name
	return doc
}

// oneLine joins the lines of s: an error is one line, so that logs keep it together.
func oneLine(s string) string {
	lines := slices.DeleteFunc(strings.Split(s, "\n"), func(l string) bool { return strings.TrimSpace(l) == "" })
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, "; ")
}

// exitCode returns the exit code that CLI and documentation promise for err.
func exitCode(err error) int {
	var c *codeError
	var s *signalError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &c):
		return c.code
	case errors.As(err, &s):
		return 128 + int(s.sig)
	}
	return document(err).Code.ExitCode()
}

// report prints err and returns the exit code.
func (a *app) report(err error, asJSON bool) int {
	var c *codeError
	if err != nil && (!errors.As(err, &c) || c.err != nil) {
		a.printError(err, asJSON)
	}
	return exitCode(err)
}

// printError writes err for people, or as the document of the API. Errors that
// were joined are printed one by one.
func (a *app) printError(err error, asJSON bool) {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range many.Unwrap() {
			a.printError(err, asJSON)
		}
		return
	}
	doc := document(err)
	if asJSON {
		_ = json.NewEncoder(a.stderr).Encode(api.ErrorBody{Error: &doc})
		return
	}
	fmt.Fprintln(a.stderr, "ctrsnap: "+doc.Message)
	if doc.Hint != "" {
		fmt.Fprintln(a.stderr, "hint: "+doc.Hint)
	}
}

// hint tells people something that is not an error.
func (a *app) hint(format string, args ...any) {
	fmt.Fprintf(a.stderr, "ctrsnap: "+format+"\n", args...)
}

// wantsJSON finds out how errors are to be printed, also where the command line
// cannot be parsed.
func (a *app) wantsJSON(args []string) bool {
	format := a.getenv("CTRSNAP_OUTPUT")
	for i, arg := range args {
		switch v, found := cutFlag(arg); {
		case !found:
		case v != "":
			format = v
		case i+1 < len(args):
			format = args[i+1]
		}
	}
	return format == "json"
}

func cutFlag(arg string) (value string, found bool) {
	for _, name := range []string{"-o", "--output", "--format"} {
		if arg == name {
			return "", true
		}
		if v, ok := strings.CutPrefix(arg, name+"="); ok {
			return v, true
		}
	}
	return "", false
}
