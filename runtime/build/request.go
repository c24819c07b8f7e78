package build

import (
	"context"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/foreign"
)

// Limits of what a request may say. They keep a golden's record small; the
// files have no limit but the disk.
const (
	maxKey     = 256
	maxExec    = 100
	maxCommand = 4 << 10
	// maxSettings and maxSetting (bytes of name and value) are as for clones.
	maxSettings = 100
	maxSetting  = 4 << 10
)

var (
	keyRE = regexp.MustCompile(`^[[:graph:]]*$`)
	envRE = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

// validate checks all of req that can be checked without looking anywhere.
func validate(req api.BuildRequest) error {
	if err := snapshot.ValidateName(req.Name); err != nil {
		return err
	}
	for _, check := range []func(api.BuildRequest) error{validateBase, validateKey, validateExec, validateEnv, validateSettings} {
		if err := check(req); err != nil {
			return err
		}
	}
	if req.Mode != "" {
		if _, err := snapshot.ParseMode(req.Mode); err != nil {
			return err
		}
	}
	_, err := redactURL(req.FromURL)
	return err
}

func validateBase(req api.BuildRequest) error {
	var kinds []string
	for kind, set := range map[string]bool{
		"host": req.FromHost || req.Prefix != "", "image": req.Image != "",
		"archive": req.Archive, "parent": req.Parent != "",
	} {
		if set {
			kinds = append(kinds, kind)
		}
	}
	if len(kinds) > 1 {
		slices.Sort(kinds)
		return snapshot.WithHint(invalid("more than one base: %s", strings.Join(kinds, ", ")),
			"a golden has one base: --from-host, --image, --image-archive or --parent")
	}
	if len(req.Image) > maxCommand || !keyRE.MatchString(req.Image) {
		return invalid("invalid image reference %.80q", req.Image)
	}
	return nil
}

func validateExec(req api.BuildRequest) error {
	if len(req.Exec) > maxExec {
		return invalid("%d commands to run: at most %d", len(req.Exec), maxExec)
	}
	for _, command := range req.Exec {
		if strings.TrimSpace(command) == "" || len(command) > maxCommand || strings.ContainsRune(command, 0) {
			return invalid("invalid command %.80q: want 1 to %d bytes", command, maxCommand)
		}
	}
	return nil
}

func validateEnv(req api.BuildRequest) error {
	for k, v := range req.Env {
		if !envRE.MatchString(k) || strings.ContainsRune(v, 0) {
			return invalid("invalid environment variable %.80q", k)
		}
	}
	if strings.ContainsRune(req.User+req.Password+req.Database+req.Login, 0) {
		return invalid("user, password or database contains a zero byte")
	}
	if req.User != "" && req.Login != "" {
		return snapshot.WithHint(invalid("a user and a login at once"), "--login is for a role of the sources, --user makes a superuser")
	}
	if !slices.Contains([]string{"", "stop", "continue"}, req.OnError) {
		return invalid("invalid on_error %.80q: want stop or continue", req.OnError)
	}
	return nil
}

func validateSettings(req api.BuildRequest) error {
	if len(req.Settings) > maxSettings {
		return invalid("%d settings: at most %d", len(req.Settings), maxSettings)
	}
	for k, v := range req.Settings {
		if k == "" || len(k)+len(v) > maxSetting {
			return invalid("invalid setting %.80q: want a name and at most %d bytes", k, maxSetting)
		}
	}
	return nil
}

// redactURL returns the URL without its secrets. What url.Parse says about a
// malformed one is withheld, since it quotes the password.
func redactURL(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	u, err := api.ParseURL(s)
	if err != nil || u.Scheme == "" || u.Opaque != "" || strings.ContainsRune(s, 0) {
		return "", snapshot.WithHint(invalid("invalid URL of the database to be dumped"),
			"use a form like postgres://user:password@host:5432/database")
	}
	if u.User != nil {
		u.User = url.User(u.User.Username())
	}
	q := u.Query()
	for k := range q {
		if strings.Contains(strings.ToLower(k), "passw") {
			q.Del(k)
		}
	}
	u.RawQuery = q.Encode()
	u.Fragment = ""
	return u.String(), nil
}

// plan finds what the build needs and what can be said to be missing before
// anything is uploaded: engine, parent, programs of the host.
func (b *Builder) plan(ctx context.Context, j *job) (err error) {
	if err := b.planBase(ctx, j); err != nil || j.req.Key == "" {
		return err
	}
	j.parts, err = j.keyParts()
	return err
}

func (b *Builder) planBase(ctx context.Context, j *job) error {
	if err := b.planParent(ctx, j); err != nil {
		return err
	}
	engine, err := b.engine(j.req.Engine)
	if err != nil {
		return err
	}
	j.engine = engine
	if j.req.Image != "" || j.req.Archive || j.src.Parent != nil {
		return nil
	}
	return b.planHost(ctx, j)
}

// planHost finds the engine on this host, with the rights of the caller: a prefix is theirs, and what lies in it may lead anywhere.
// Who comes from another host has none here.
func (b *Builder) planHost(ctx context.Context, j *job) error {
	local := j.caller.Remote == "" && (j.caller.IsRoot() || j.caller.Group() != snapshot.NoGroup)
	if !local && !j.caller.IsAdmin() {
		return snapshot.WithHint(fmt.Errorf("use files of the daemon's host: only its users and administrators may: %w", errdefs.ErrPermissionDenied),
			"give --image, --image-archive or --parent")
	}
	var reader snapshot.HostReader
	if local && !j.caller.IsRoot() {
		reader = snapshot.HostReader{UID: j.caller.UID(), Groups: j.caller.Groups()}
	}
	return foreign.As(reader.UID, reader.Groups, func() (err error) {
		prefix := j.req.Prefix
		if prefix != "" {
			if prefix, err = checkPrefix(prefix, j.caller); err != nil {
				return err
			}
		}
		j.tree, err = j.engine.Host(ctx, prefix)
		j.tree.Prefix, j.tree.Reader = prefix, reader
		return err
	})
}

func (b *Builder) planParent(ctx context.Context, j *job) error {
	if j.req.Parent == "" {
		return nil
	}
	ref, err := snapshot.ParseRef(j.req.Parent)
	if err != nil {
		return err
	}
	parent, err := b.Store.Golden(ctx, ref)
	if err == nil && !j.caller.MayRead(parent) {
		err = snapshot.NoGolden(ref)
	}
	if err == nil {
		err = parent.Damaged()
	}
	if err != nil {
		return fmt.Errorf("get parent %s: %w", ref, err)
	}
	if j.req.Engine == "" {
		j.req.Engine = parent.Engine
	}
	if j.req.Engine != parent.Engine {
		return invalid("parent %s is of engine %s, not %s", parent.Ref(), parent.Engine, j.req.Engine)
	}
	j.src.Parent = &parent
	j.base = snapshot.Base{
		Kind: "golden", Ref: parent.Ref().String(), Digest: parent.Digest,
		Snapshot: parent.Snapshot, Config: parent.Base.Config,
	}
	return nil
}

func (b *Builder) engine(name string) (runtime.Engine, error) {
	if name == "" {
		name = DefaultEngine
	}
	e, err := b.Engines.Engine(name)
	if errdefs.IsNotFound(err) {
		return nil, snapshot.WithHint(invalid("unknown engine %.80q", name), "engines: "+strings.Join(b.Engines.Names(), ", "))
	}
	return e, err
}

// builder names the caller for a golden's record.
func builder(c access.Caller) string {
	if c.Name != "" {
		return c.Name
	}
	return fmt.Sprint(c.UID())
}
