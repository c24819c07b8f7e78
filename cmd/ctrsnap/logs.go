package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

func (a *app) logsCommand() *cli.Command {
	var which api.LogsArgs
	var since since
	return &cli.Command{
		Name:      "logs",
		Usage:     "print what the servers of clones have logged",
		ArgsUsage: "ID…",
		Description: `With several clones each line begins with its clone. --since goes by the times that the server
itself writes, as PostgreSQL and etcd do with their zone; where there are none it is an error.

   ctrsnap logs pr-42 --tail 20
   ctrsnap logs pr-42 --since 10m`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on until the clone ends", Destination: &which.Follow},
			&cli.IntFlag{Name: "tail", Aliases: []string{"n"}, Usage: "only the last `N` lines", Value: -1, DefaultText: "all", Destination: &which.Tail, Validator: notNegative},
			&cli.GenericFlag{Name: "since", Usage: "only lines of the last `D` (10m), or since a TIME (2006-01-02T15:04:05Z)", Value: &since},
		},
		Action: func(ctx context.Context, cmd *cli.Command) error {
			ids, err := arguments(cmd)
			if err != nil {
				return err
			}
			d, err := a.connect()
			if err != nil {
				return err
			}
			return a.logs(ctx, d, ids, which, since.Time)
		},
	}
}

// logs prints the logs of all clones, those that are followed at the same time.
func (a *app) logs(ctx context.Context, d *client.Client, ids []string, which api.LogsArgs, since time.Time) error {
	errs := make([]error, len(ids))
	var mu sync.Mutex
	one := func(i int) {
		out := &logLines{mu: &mu, w: a.stdout, since: since}
		if len(ids) > 1 {
			out.prefix = ids[i] + " | "
		}
		args := which
		args.ID = ids[i]
		errs[i] = about(errors.Join(d.Logs(ctx, args, out), out.end()), "logs %s", ids[i])
	}
	var wg sync.WaitGroup
	for i := range ids {
		if which.Follow {
			wg.Go(func() { one(i) })
		} else {
			one(i)
		}
	}
	wg.Wait()
	if len(ids) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

// logLines writes whole lines to w, each after the prefix, from the first on that is not before since.
type logLines struct {
	mu     *sync.Mutex // of w
	w      io.Writer
	prefix string
	since  time.Time // zero: from the first line on
	rest   []byte    // of a line that has no end yet
	began  bool
	timed  bool // a line had a time
	any    bool
}

// Write takes a piece of a log.
func (l *logLines) Write(p []byte) (int, error) {
	if l.prefix == "" && l.since.IsZero() {
		return l.w.Write(p)
	}
	l.rest = append(l.rest, p...)
	for {
		line, rest, ended := bytes.Cut(l.rest, []byte("\n"))
		if !ended {
			return len(p), nil
		}
		if err := l.line(line); err != nil {
			return 0, err
		}
		l.rest = rest
	}
}

func (l *logLines) line(line []byte) error {
	l.any = true
	if !l.began && !l.since.IsZero() {
		t, ok := lineTime(string(line))
		l.timed = l.timed || ok
		if !ok || t.Before(l.since) {
			return nil
		}
	}
	l.began = true
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := l.w.Write(append(append([]byte(l.prefix), line...), '\n'))
	return err
}

// end writes a last line that has no end.
func (l *logLines) end() error {
	if len(l.rest) > 0 {
		if err := l.line(l.rest); err != nil {
			return err
		}
	}
	if l.any && !l.timed && !l.began {
		return usagef("leave --since away, or use --tail").of("the lines of this server have no times that --since could go by")
	}
	return nil
}

// lineTime returns when a line was written, where it says so with its zone: at its beginning, as PostgreSQL, or as ts in
// JSON, as etcd.
func lineTime(line string) (time.Time, bool) {
	if _, rest, ok := bytes.Cut([]byte(line), []byte(`"ts":"`)); ok {
		ts, _, _ := bytes.Cut(rest, []byte(`"`))
		t, err := time.Parse(time.RFC3339, string(ts))
		return t, err == nil
	}
	words := bytes.Fields([]byte(line))
	if len(words) < 3 || string(words[2]) != "UTC" && string(words[2]) != "GMT" {
		return time.Time{}, false
	}
	t, err := time.Parse("2006-01-02 15:04:05", string(words[0])+" "+string(words[1])) // a fraction is taken, too
	return t, err == nil
}

// since is a flag: a duration back from now, or a time.
type since struct{ time.Time }

// Set parses either.
func (s *since) Set(v string) error {
	if d, err := time.ParseDuration(v); err == nil && d > 0 {
		s.Time = time.Now().Add(-d)
		return nil
	}
	var err error
	if s.Time, err = time.Parse(time.RFC3339, v); err != nil {
		return errors.New("want a form like 90s, 30m or 2h, or a time like 2006-01-02T15:04:05Z")
	}
	return nil
}

func (s *since) String() string { return "" }

// Get is for the parser.
func (s *since) Get() any { return s.Time }

func notNegative(n int) error {
	if n < 0 {
		return errors.New("want 0 or more")
	}
	return nil
}
