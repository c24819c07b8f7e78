package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/user"
	"regexp"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/foreign"
)

// digestRE is the form of the digests of sources.
var digestRE = regexp.MustCompile(`^[0-9a-f]{32}$`)

func validateKey(req api.BuildRequest) error {
	if len(req.Key) > maxKey || !keyRE.MatchString(req.Key) {
		return invalid("invalid key %.80q: want at most %d printable characters without spaces", req.Key, maxKey)
	}
	if req.CheckOnly && req.Key == "" {
		return invalid("check_only asks for a key")
	}
	for kind, digest := range req.KeyParts {
		if !slices.Contains(api.Parts, kind) || !digestRE.MatchString(digest) {
			return invalid("invalid key part %.80q: %.80q: want 32 hexadecimal digits for a kind of sources", kind, digest)
		}
	}
	return nil
}

// keyParts are digests of all that makes a golden beside the files of its key, by what they are of: the caller has
// digested the files that it would send. Another value of any makes another golden.
func (j *job) keyParts() (map[string]string, error) {
	parts := maps.Clone(j.req.KeyParts)
	if parts == nil {
		parts = map[string]string{}
	}
	base, err := j.keyBase()
	if err != nil {
		return nil, err
	}
	url, err := redactURL(j.req.FromURL)
	if err != nil {
		return nil, err
	}
	for name, value := range map[string]any{
		"base":     base,
		"url":      url,
		"exec":     j.req.Exec,
		"login":    []string{j.req.User, j.req.Password, j.req.Database},
		"role":     j.req.Login,
		"on_error": j.req.OnError,
		"env":      j.req.Env,
		"settings": j.req.Settings,
	} {
		text, err := json.Marshal(value) // of maps by sorted keys
		if err != nil {
			return nil, err
		}
		if s := string(text); s != "null" && s != `""` && s != "[]" && s != "{}" && s != `["","",""]` {
			sum := sha256.Sum256(text)
			parts[name] = hex.EncodeToString(sum[:16])
		}
	}
	return parts, nil
}

// keyBase says which root filesystem, and so which programs, the build begins with.
func (j *job) keyBase() ([]string, error) {
	base := []string{j.engine.Name()}
	switch {
	case j.src.Parent != nil:
		return append(base, j.src.Parent.Ref().String(), j.src.Parent.Digest), nil
	case j.req.Image != "":
		return append(base, j.req.Image), nil
	case j.req.Archive:
		return base, nil // the caller has digested it
	}
	base = append(base, j.tree.Name)
	err := foreign.As(j.tree.Reader.UID, j.tree.Reader.Groups, func() error {
		for _, f := range j.tree.Files {
			info, err := os.Stat(f.Source)
			if err != nil && !f.Optional {
				return fmt.Errorf("look at the programs of this host: %w", err)
			}
			if err == nil { // whoever upgrades a package replaces its files
				base = append(base, f.Source, fmt.Sprint(info.Size(), info.ModTime().UnixNano()))
			}
		}
		return nil
	})
	return base, err
}

// hit finds the version that has the wanted key and parts; of several the current one, else the newest. Who must not
// trust those who built it is refused: another's golden in place of one's own would have the jobs of one user run what
// another has put there.
func (j *job) hit(ctx context.Context) (g snapshot.Golden, found bool, err error) {
	if j.req.Key == "" {
		return g, false, nil
	}
	all, err := j.Store.Goldens(ctx)
	if err != nil {
		return g, false, fmt.Errorf("look for key: %w", err)
	}
	trusted, err := j.trusted()
	if err != nil {
		return g, false, err
	}
	var foreign error
	for _, o := range all {
		switch {
		case o.Name != j.req.Name || o.Key != j.req.Key || !maps.Equal(o.KeyParts, j.parts) || !j.caller.MayRead(o):
		case !j.caller.Trusts(o.Access, trusted):
			foreign = snapshot.WithHint(
				fmt.Errorf("%s has this key, but is not yours: %w", o.Ref(), errdefs.ErrPermissionDenied),
				"choose another name, or have an administrator build it, or name a group of yours in build.trusted_group")
		case !found || o.Current || (!g.Current && o.Version > g.Version):
			g, found = o, true
		}
	}
	if !found && foreign != nil {
		return g, false, foreign
	}
	return g, found, nil
}

// trusted is the group whose members take each other's goldens for their own; 0 is none.
func (b *Builder) trusted() (gid int, err error) {
	if b.TrustedGroup == "" {
		return 0, nil
	}
	g, err := user.LookupGroup(b.TrustedGroup)
	if err != nil {
		return 0, fmt.Errorf("build.trusted_group: %w", err)
	}
	return strconv.Atoi(g.Gid)
}

// keepsEngine says why the build may not go on: a golden whose name's current version is of another engine would break
// all that use it by its name.
func (j *job) keepsEngine(ctx context.Context) error {
	current, err := j.Store.Golden(ctx, snapshot.Ref{Name: j.req.Name})
	if errdefs.IsNotFound(err) || j.req.Force || err == nil && !j.caller.MayRead(current) {
		return nil
	}
	if err == nil && current.Engine != j.engine.Name() {
		err = snapshot.WithHint(
			fmt.Errorf("%s is of engine %s, not %s: %w", current.Ref(), current.Engine, j.engine.Name(), errdefs.ErrFailedPrecondition),
			"choose another name, or say --force: whoever clones "+j.req.Name+" gets the new engine")
	}
	return err
}
