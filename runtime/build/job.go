package build

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/network/kind"
	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/undo"
)

// job is one build.
type job struct {
	*Builder
	id     string
	start  time.Time
	caller access.Caller
	req    api.BuildRequest
	engine runtime.Engine
	tree   snapshot.HostTree // of a host base
	out    *output
	asks   asks
	turn   turn
	end    context.CancelCauseFunc // ends the build
	undo   undo.Stack

	parts    map[string]string // of the key
	base     snapshot.Base
	src      runtime.Sources
	sources  []snapshot.Source // provenance
	names    []string          // pairs: a file's name in the spool, and what the caller calls it
	warnings []string
}

// Build builds a golden, or finds that there is one with the wanted key. The
// first event has type "id"; none comes if nothing has to be built.
func (b *Builder) Build(
	ctx context.Context, caller access.Caller, req api.BuildRequest,
	next func() (api.Part, error), events func(api.BuildEvent),
) (api.Golden, bool, error) {
	if err := validate(req); err != nil {
		return api.Golden{}, false, fmt.Errorf("build golden: %w", err)
	}
	g, existed, err := b.build(ctx, caller, req, next, events)
	if err != nil {
		return api.Golden{}, false, fmt.Errorf("build golden %s: %w", req.Name, err)
	}
	return b.Goldens.Describe(g), existed, nil
}

func (b *Builder) build(
	ctx context.Context, caller access.Caller, req api.BuildRequest,
	next func() (api.Part, error), events func(api.BuildEvent),
) (g snapshot.Golden, existed bool, err error) {
	j := &job{Builder: b, id: kind.Build.New(), start: time.Now(), caller: caller, req: req}
	if err := b.plan(ctx, j); err != nil {
		return g, false, err
	}
	if g, existed, err = j.hit(ctx); existed || err != nil {
		return g, existed, err
	}
	if req.CheckOnly {
		return g, false, fmt.Errorf("no version has key %s: %w", req.Key, errdefs.ErrNotFound)
	}
	if err := b.Goldens.MayAdd(ctx, caller, req.Name); err != nil {
		return g, false, err
	}
	if err := caller.CheckIsolated("build", b.Runner.Isolation()); err != nil {
		return g, false, err
	}
	if err := b.Room(); err != nil {
		return g, false, err
	}
	if err := j.keepsEngine(ctx); err != nil {
		return g, false, err
	}
	ctx, j.end = context.WithCancelCause(ctx)
	defer b.guard(ctx, j.end)()
	if j.out, err = openOutput(b.LogDir, j.id, events); err != nil {
		return g, false, err
	}
	if err := b.register(j); err != nil {
		return g, false, errors.Join(err, j.out.close())
	}
	j.undo.Add("close log", func(context.Context) error { b.unregister(j); b.pruneLogs(); return j.out.close() })
	g, existed, err = j.locked(ctx, next)
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause // says why the build was ended
	}
	return g, existed, j.finish(ctx, err)
}

// locked keeps builds of the same name and key from doing the same work
// twice: the later waits and finds what the earlier has built.
func (j *job) locked(ctx context.Context, next func() (api.Part, error)) (g snapshot.Golden, existed bool, err error) {
	if j.req.Key != "" {
		key := j.req.Name + " " + j.req.Key
		unlock := j.locks.TryLock(key)
		if unlock == nil {
			j.out.step("wait for the build of the same key")
			if unlock, err = j.locks.Lock(ctx, key); err != nil {
				return g, false, err
			}
		}
		j.undo.Add("unlock", func(context.Context) error { unlock(); return nil })
		if g, existed, err = j.hit(ctx); existed || err != nil {
			return g, existed, err
		}
	}
	g, err = j.make(ctx, next)
	return g, false, err
}

// make takes the steps of a build. The sources come in before the build waits for
// its turn: only a request that is read to its end shows when the caller
// is gone.
func (j *job) make(ctx context.Context, next func() (api.Part, error)) (g snapshot.Golden, err error) {
	if err := j.setSources(); err != nil {
		return g, err
	}
	j.out.step("take sources")
	if err := j.spoolParts(ctx, next); err != nil {
		return g, err
	}
	j.turn = turn{queue: j.turns, most: j.Concurrency, who: j.party(), step: j.out.step}
	if err := j.turn.take(ctx); err != nil {
		return g, err
	}
	j.undo.Add("leave", func(context.Context) error { j.turn.give(); return nil })
	j.limitTime()
	if err := j.makeBase(ctx); err != nil {
		return g, err
	}
	return j.work(ctx)
}

// setSources fills in what does not come as a file.
func (j *job) setSources() error {
	j.src.Golden = j.req.Name
	j.src.URL = j.req.FromURL
	j.src.Exec = j.req.Exec
	j.src.User, j.src.Password, j.src.Database, j.src.Login = j.req.User, j.req.Password, j.req.Database, j.req.Login
	j.src.GoOn = j.req.OnError == "continue"
	j.src.Env = j.req.Env
	j.src.Settings = j.req.Settings
	if j.src.Parent != nil && len(j.src.Parent.Settings) > 0 { // its data may need them to start
		j.src.Settings = maps.Clone(j.src.Parent.Settings)
		maps.Copy(j.src.Settings, j.req.Settings)
	}
	for _, k := range kinds {
		if k.say == nil {
			continue
		}
		said, err := k.say(j.req)
		if err != nil {
			return err
		}
		j.sources = append(j.sources, said...)
	}
	return nil
}

// makeBase makes the base unless it is there: a parent, or an archive that came
// with the sources.
func (j *job) makeBase(ctx context.Context) (err error) {
	if err := j.fail("base"); err != nil {
		return err
	}
	switch {
	case j.base.Snapshot != "":
	case j.req.Image != "":
		j.out.step("pull " + j.req.Image)
		j.base, err = j.Bases.Pull(ctx, j.req.Image, j.out.report)
	default:
		j.out.step("copy " + j.tree.Name + " of this host")
		j.base, err = j.Bases.Host(ctx, j.tree)
	}
	j.src.Base = j.base
	return err
}

// work lets the engine work on the base and commits the result.
func (j *job) work(ctx context.Context) (g snapshot.Golden, err error) {
	wb, err := j.openBench(ctx)
	if err != nil {
		return g, err
	}
	built, err := j.engine.Build(ctx, wb, j.src)
	if err != nil {
		return g, err
	}
	if err := wb.finish(ctx); err != nil {
		return g, err
	}
	if err := j.fail("commit"); err != nil {
		return g, err
	}
	j.out.step("commit")
	if g, err = j.commit(ctx, wb.build, built); err == nil {
		j.Logger.InfoContext(ctx, "golden built", "golden", g.Ref().String(), "engine", g.Engine, "build", j.id, "builder", g.Builder)
	}
	return g, err
}

// commit makes the golden.
func (j *job) commit(ctx context.Context, b snapshot.Build, built runtime.Built) (snapshot.Golden, error) {
	g := j.record(built)
	var err error
	if g.Access, err = j.access(); err != nil {
		return g, err
	}
	return j.Goldens.Add(ctx, j.caller, j.req.Name, func() (snapshot.Golden, error) { return b.Commit(ctx, g) })
}

// access is that of a name that the build makes.
func (j *job) access() (snapshot.Access, error) {
	a := snapshot.Access{Owner: j.caller.UID(), Group: j.caller.Group(), Mode: j.Mode}
	if j.req.Mode == "" {
		return a, nil
	}
	var err error
	a.Mode, err = snapshot.ParseMode(j.req.Mode)
	return a, err
}

func (j *job) record(built runtime.Built) snapshot.Golden {
	g := snapshot.Golden{
		Name: j.req.Name,
		Description: snapshot.Description{
			Engine:        j.engine.Name(),
			EngineVersion: built.EngineVersion,
			State:         built.State,
			Settings:      j.src.Settings,
			Hot:           built.Hot,
			Warnings:      j.warnings,
			Base:          j.base,
			Created:       time.Now().UTC(),
		},
		Key:          j.req.Key,
		KeyParts:     j.parts,
		Sources:      j.sources,
		Builder:      builder(j.caller),
		BuildSeconds: time.Since(j.start).Seconds(),
	}
	if j.src.Parent != nil {
		g.Parent = j.src.Parent.Ref().String()
	}
	return g
}

// finish undoes all that is no part of a golden and makes err one for people.
// A golden that is committed stays one, whatever cannot be cleared away.
func (j *job) finish(ctx context.Context, err error) error {
	if err != nil {
		j.out.note("failed: " + err.Error() + "\n")
	}
	uerr := j.undo.Run(ctx, undoTimeout)
	if err == nil {
		if uerr != nil {
			j.Logger.ErrorContext(ctx, "clear away after build", "golden", j.req.Name, "build", j.id, "error", uerr)
		}
		return nil
	}
	if uerr != nil {
		err = fmt.Errorf("%w; undo build %s: %v", err, j.id, uerr) //nolint:errorlint // the class of the undo's error does not count
	}
	return explain(rename(err, j.names), j.out.path)
}

// renamed is an error that calls the caller's files what he calls them.
type renamed struct {
	error
	text string
}

func (r renamed) Error() string { return r.text }
func (r renamed) Unwrap() error { return r.error }

// rename takes pairs of a name in the spool and the caller's.
func rename(err error, names []string) error {
	replace := strings.NewReplacer(names...).Replace
	var source *runtime.SourceError
	if errors.As(err, &source) {
		source.File = replace(source.File)
	}
	return renamed{err, replace(err.Error())}
}

// explain gives err the class of a full disk, if that is its cause, and hints
// at what to do and where the log is.
func explain(err error, log string) error {
	hint := "the build log is " + log
	var hinted interface{ Hint() string }
	if errors.As(err, &hinted) {
		hint = hinted.Hint() + "; " + hint
	}
	if noSpace(err) {
		hint = "free or add space: 'ctrsnap doctor' shows the storage, 'ctrsnap golden rm' removes goldens; " + hint
		err = fmt.Errorf("%v: %w", err, errdefs.ErrResourceExhausted) //nolint:errorlint // a script that lacks space is not wrong itself
	}
	return snapshot.WithHint(err, hint)
}

// noSpace looks for the text of the error: more often than not it comes from a
// server or a tool that could not write.
func noSpace(err error) bool {
	text := strings.ToLower(err.Error())
	return strings.Contains(text, syscall.ENOSPC.Error()) || strings.Contains(text, syscall.EDQUOT.Error())
}
