package described

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// state is what a golden remembers of its database. It is stored as the
// golden's State: fields are added, never renamed.
type state struct {
	// Description is the text that the golden was built by, "" of a built-in
	// engine. Its clones are served by that, whatever is added under the name later.
	Description string            `json:"description,omitempty"`
	Digest      string            `json:"digest"`
	Version     string            `json:"version"`
	Programs    map[string]string `json:"programs"` // where they lie, by name
	UID         uint32            `json:"uid"`
	GID         uint32            `json:"gid"`
	User        string            `json:"user,omitempty"`
	Passwd      string            `json:"password,omitempty"`
	DB          string            `json:"database,omitempty"`
	Env         []string          `json:"env,omitempty"` // of the image
}

// served is a golden's description with its state.
type served struct {
	d *Description
	state
	golden string
}

// of reads the state of a golden.
func (e *Engine) of(g snapshot.Golden) (served, error) {
	s := served{d: e.d, golden: g.Name}
	if err := json.Unmarshal(g.State, &s.state); err != nil {
		return s, fmt.Errorf("read state of golden %s: %w: %w", g.Ref(), err, errdefs.ErrDataLoss)
	}
	if s.Description == "" || s.Digest == e.digest {
		return s, nil
	}
	var err error
	if s.d, err = e.older(s.Digest, s.Description); err != nil {
		return s, fmt.Errorf("read state of golden %s: %w: %w", g.Ref(), err, errdefs.ErrDataLoss)
	}
	return s, nil
}

// older returns a description of the engine that was replaced since. Each is parsed
// once.
func (e *Engine) older(digest, text string) (*Description, error) {
	if d, ok := e.parsed.Load(digest); ok {
		return d.(*Description), nil
	}
	d, err := Parse([]byte(text))
	if err == nil {
		e.parsed.Store(digest, d)
	}
	return d, err
}

// fields are those of a place in the container.
func (s served) fields() Fields {
	return Fields{
		Data: s.d.Server.Data, Run: runtime.SocketDir, Build: buildDir, Host: "127.0.0.1", Port: strconv.Itoa(s.d.Server.Port),
		Socket: s.socket(runtime.SocketDir), User: s.User, Password: s.Passwd, Database: s.DB, Golden: s.golden,
	}
}

// socket is the path of the unix socket in dir, or "".
func (s served) socket(dir string) string {
	if s.d.Server.Socket == "" || dir == "" {
		return ""
	}
	return path.Join(dir, s.d.Server.Socket)
}

// process returns a command in the container, as the server's user.
func (s served) process(f Fields, args []string, env map[string]string) (runtime.Process, error) {
	args, err := f.all(args)
	if err != nil {
		return runtime.Process{}, err
	}
	vars, err := s.env(f, env)
	if err != nil {
		return runtime.Process{}, err
	}
	if p := s.Programs[args[0]]; p != "" {
		args[0] = p
	}
	return runtime.Process{Args: args, Env: vars, UID: s.UID, GID: s.GID}, nil
}

const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// env is the image's environment, over it the server's, and more.
func (s served) env(f Fields, more map[string]string) ([]string, error) {
	vars := map[string]string{"PATH": searchPath, "HOME": s.d.Server.Data, "LANG": "C.UTF-8"}
	for _, kv := range s.Env {
		if k, v, ok := strings.Cut(kv, "="); ok {
			vars[k] = v
		}
	}
	for _, table := range []map[string]string{s.d.Server.Env, more} {
		values, err := f.values(table)
		if err != nil {
			return nil, err
		}
		maps.Copy(vars, values)
	}
	env := make([]string, 0, len(vars))
	for _, k := range slices.Sorted(maps.Keys(vars)) {
		env = append(env, k+"="+vars[k])
	}
	return env, nil
}
