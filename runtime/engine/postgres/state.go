package postgres

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// state is what a golden remembers of its database. It is stored as the
// golden's State: fields are added, never renamed.
type state struct {
	Version string   `json:"version"` // "15.18"
	BinDir  string   `json:"bin_dir"`
	DataDir string   `json:"data_dir"`
	UID     uint32   `json:"uid"`
	GID     uint32   `json:"gid"`
	Admin   string   `json:"admin"` // a superuser, for the socket
	User    string   `json:"user"`  // what clones are handed out with
	Passwd  string   `json:"password"`
	DB      string   `json:"database"`
	Env     []string `json:"env,omitempty"` // of the image, for the server
	// RelCache are the directories, below DataDir, with a relation cache that
	// clones can have back.
	RelCache []string `json:"relcache,omitempty"`
	// Conf is what confFile has of the engine's settings; nil in goldens of releases without that file. Own are the
	// settings of the golden's own files that go over them, Force what clones have in place of others of them.
	Conf  map[string]string `json:"conf,omitempty"`
	Own   map[string]string `json:"own,omitempty"`
	Force map[string]string `json:"force,omitempty"`
}

// stateOf reads the state of a golden.
func stateOf(g snapshot.Golden) (state, error) {
	var s state
	if err := json.Unmarshal(g.State, &s); err != nil {
		return s, fmt.Errorf("read state of golden %s: %w: %w", g.Ref(), err, errdefs.ErrDataLoss)
	}
	if s.BinDir == "" || s.DataDir == "" || s.User == "" {
		return s, fmt.Errorf("read state of golden %s: incomplete: %w", g.Ref(), errdefs.ErrDataLoss)
	}
	return s, nil
}

// major is the first part of a version: 15 of "15.18", "18beta1" or "15.18 (Debian …)".
func major(version string) int {
	end := strings.IndexFunc(version, func(r rune) bool { return r < '0' || r > '9' })
	if end >= 0 {
		version = version[:end]
	}
	n, _ := strconv.Atoi(version) // 0 is no version
	return n
}

// process returns one of PostgreSQL's programs, run as the server's user.
func (s state) process(args []string, env ...string) runtime.Process {
	args = append([]string{s.BinDir + "/" + args[0]}, args[1:]...)
	return runtime.Process{Args: args, Env: s.env(env...), UID: s.UID, GID: s.GID}
}

// env returns the image's environment with the programs in PATH, the socket
// as the default way to the server, and more.
func (s state) env(more ...string) []string {
	vars := map[string]string{
		"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME": "/var/lib/postgresql",
		"LANG": "C.UTF-8",
	}
	var keys []string
	for _, kv := range s.Env {
		if k, v, ok := strings.Cut(kv, "="); ok {
			vars[k] = v
		}
	}
	vars["PATH"] = s.BinDir + ":" + vars["PATH"]
	vars["PGHOST"], vars["PGPORT"] = runtime.SocketDir, strconv.Itoa(port)
	for _, kv := range more {
		k, v, _ := strings.Cut(kv, "=")
		vars[k] = v
	}
	for k := range vars {
		keys = append(keys, k)
	}
	return joinEnv(keys, vars)
}
