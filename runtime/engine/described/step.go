package described

import (
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"

	"github.com/ctrsnap/ctrsnap/runtime"
)

// steps runs commands beside the server.
func (b *build) steps(ctx context.Context, steps []Step) error {
	for _, s := range steps {
		if err := b.step(ctx, b.st.fields(), s, runtime.Stdio{}); err != nil {
			return err
		}
	}
	return nil
}

func (b *build) step(ctx context.Context, f Fields, s Step, stdio runtime.Stdio) error {
	p, in, err := b.command(f, s)
	if err != nil {
		return err
	}
	if f.File != "" {
		p.Cwd = path.Dir(f.File) // what a script reads lies beside it
	}
	if stdio.Stdin == nil && in != "" {
		stdio.Stdin = strings.NewReader(in)
	}
	return b.svc.Exec(ctx, p, stdio)
}

// run runs a command where no server runs.
func (b *build) run(ctx context.Context, f Fields, s Step) error {
	p, in, err := b.command(f, s)
	if err != nil {
		return err
	}
	return b.wb.Run(ctx, p, runtime.RunOpts{Stdio: runtime.Stdio{Stdin: strings.NewReader(in)}})
}

func (b *build) command(f Fields, s Step) (runtime.Process, string, error) {
	p, err := b.st.process(f, s.Args, merge(b.e.d.Build.StepEnv, s.Env))
	if err != nil {
		return p, "", err
	}
	in, err := f.expand(s.Stdin)
	return p, in, err
}

// lineRE finds the line of a script in a client's message.
var lineRE = regexp.MustCompile(`at line ([0-9]+)`)

// sourceError makes a command that ran and failed an error in the sources.
func sourceError(name string, err error) error {
	var exit *runtime.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	e := &runtime.SourceError{File: name, Message: fmt.Sprintf("exit code %d", exit.Code)}
	if exit.Output != "" {
		e.Message += ": " + last(exit.Output)
	}
	if m := lineRE.FindStringSubmatch(e.Message); m != nil {
		_, _ = fmt.Sscan(m[1], &e.Line) // digits
	}
	return e
}
