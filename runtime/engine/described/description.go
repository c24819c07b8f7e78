// Package described is the engine for any server that a file describes: how
// its data directory is made, how it is started, when it is ready, how it is
// shut down and reached. The built-in engines beside PostgreSQL are such
// files, and a [Protocol] where asking the server takes more than a connection.
//
// See DESIGN.md of runtime/engine for the file.
package described

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/pelletier/go-toml/v2"
)

// Schema is the version of the form of descriptions.
const Schema = 1

// Description describes an engine. Texts marked (template) are of package
// text/template, with the fields of [Fields]; commands run in the container,
// as the server's user, unless said otherwise.
type Description struct {
	Schema int    `toml:"schema"`
	Name   string `toml:"name"`
	// Version prints the server's version, in a build.
	Version Step `toml:"version"`

	Host     Host     `toml:"host"`
	Server   Server   `toml:"server"`
	Settings Settings `toml:"settings"`
	Build    Build    `toml:"build"`
	Ready    Ready    `toml:"ready"`
	Connect  Connect  `toml:"connect"`
	Client   Client   `toml:"client"`
	// Password has a clone's server take another password for the login, where the
	// engine is not built in. It runs in the clone; what it is told comes by Env.
	Password Step `toml:"password"`
}

// Host is what of this host makes a base. Shared libraries and a shell with the
// usual tools come along by themselves.
type Host struct {
	// Programs must be there: names that are looked for where programs lie, or
	// absolute paths. The first is the server's.
	Programs []string `toml:"programs"`
	Optional []string `toml:"optional"` // programs that may be missing
	Files    []string `toml:"files"`    // absolute paths of files and directories, copied if they are there
}

// Server is the process of the server.
type Server struct {
	Args []string          `toml:"args"` // (template) the first is a program of Host.Programs
	Env  map[string]string `toml:"env"`  // (template) beside the image's
	User string            `toml:"user"` // looked up in the base; 999 if it is not there
	Data string            `toml:"data"` // absolute path of the data directory
	Port int               `toml:"port"`
	// Socket is the name of the unix socket in the directory that templates
	// call Run; "" if there is none.
	Socket string `toml:"socket"`
	// BuildArgs and CloneArgs (template) follow Args in a build or in a clone.
	BuildArgs []string `toml:"build_args"`
	CloneArgs []string `toml:"clone_args"`
	// Hot (template) are small files that a clone's server opens for writing and reads
	// when it starts.
	Hot []string `toml:"hot"`

	StopSignal  string   `toml:"stop_signal"`  // default TERM
	StopTimeout Duration `toml:"stop_timeout"` // default 10m
	ExitCode    int      `toml:"exit_code"`    // of a clean shutdown
	// Absent and Present (template) are files that a clean shutdown removes or leaves.
	Absent  []string `toml:"absent"`
	Present []string `toml:"present"`
}

// Settings are what a user can set with --set.
type Settings struct {
	// Args (template, with Name and Value) follow the server's own. None means
	// that the engine has no settings.
	Args     []string          `toml:"args"`
	Name     string            `toml:"name"`     // regular expression of the whole name; default [a-z][a-z0-9_.-]*
	Reserved []string          `toml:"reserved"` // that clones stand on
	Build    map[string]string `toml:"build"`    // while a golden is built
	Clone    map[string]string `toml:"clone"`    // of all clones
	// Connections is the name of the setting that bounds how many there are at a time; "" is none.
	// LeastConnections is the lowest that the server takes for it.
	Connections      string            `toml:"connections"`
	LeastConnections int               `toml:"least_connections"`
	Notes            map[string]string `toml:"notes"` // on those of clones: what a server of one's own would do otherwise
}

// Step is a command.
type Step struct {
	Args  []string          `toml:"args"`  // (template)
	Stdin string            `toml:"stdin"` // (template) what it reads; secrets belong here or into Env, not into Args
	Env   map[string]string `toml:"env"`   // (template) beside the server's
	// When limits a step of Build.Init: "new" where the data directory is empty,
	// "dump" and "dir" where it was filled from such a source; "" is always.
	When string `toml:"when"`
}

// Build is how a golden is made.
type Build struct {
	Init   []Step `toml:"init"`   // before the server starts for the first time
	Login  []Step `toml:"login"`  // beside the server, after its start and before Finish: make the login; may run twice
	Finish []Step `toml:"finish"` // beside the server, before it is shut down
	Verify []Step `toml:"verify"` // after that: a failure says that the shutdown was not clean
	// Restart has the server started anew after a dump was loaded.
	Restart bool `toml:"restart"`

	StepEnv map[string]string `toml:"step_env"` // (template) of all commands of the build, beside the server's

	User string `toml:"user"` // that clones are handed out with by default; "" is none
	// Database says that there are databases, and that one is handed out.
	Database bool `toml:"database"`
	// Databases prints the databases that came with the data, one a line; if
	// that is one, it is handed out.
	Databases Step `toml:"databases"`
	// Env are variables of the build (--env) that stand for User, Password or
	// Database, as official images know them.
	Env map[string]string `toml:"env"`

	// Scripts run files of --init and --mask by their extension (".sql"): the
	// file is the command's input, or {{.File}}. ".sh" is known without.
	Scripts map[string]Step `toml:"scripts"`
	// Dump loads --from-dump as Scripts do, or puts it into the data directory
	// as DumpFile before the server starts. DumpEnd is a regular expression that the last
	// line of a whole dump matches.
	Dump     Step   `toml:"dump"`
	DumpFile string `toml:"dump_file"`
	DumpEnd  string `toml:"dump_end"`
	// URL dumps a live database (--from-url) to its output, in the host's network.
	URL        Step     `toml:"url"`
	URLSchemes []string `toml:"url_schemes"`
	// URLPasswordEnv is the variable that has the password of a URL without one.
	// DirMarkers are paths of which a data directory (--from-dir) has one at
	// least; DirExclude are patterns of what is left out of the copy; DirPID is a file
	// that names the process of a server that runs on it.
	URLPasswordEnv string   `toml:"url_password_env"`
	DirMarkers     []string `toml:"dir_markers"`
	DirExclude     []string `toml:"dir_exclude"`
	DirPID         string   `toml:"dir_pid"`
}

// Ready is when the server is ready: one of TCP, Socket, HTTP and Exec. The
// built-in engines ask by their protocol.
type Ready struct {
	TCP    bool   `toml:"tcp"`    // the port takes a connection
	Socket bool   `toml:"socket"` // the unix socket does
	HTTP   string `toml:"http"`   // (template) path that is answered with 2xx or 3xx
	// Exec (template) is a command that succeeds. It runs in the container until it does.
	Exec []string `toml:"exec"`
}

// Connect is how a client reaches the server. Ways are "tcp" and "socket".
type Connect struct {
	URL map[string]string            `toml:"url"` // (template) by way
	Env map[string]map[string]string `toml:"env"` // (template) by way
	// Unset are variables that would lead a client elsewhere.
	Unset []string `toml:"unset"`
}

// Client is the interactive client.
type Client struct {
	Args  []string          `toml:"args"` // (template) what follows is the user's
	Env   map[string]string `toml:"env"`  // (template)
	Local string            `toml:"local"`
}

// Duration is a time.Duration that TOML writes as "1m30s".
type Duration time.Duration

// UnmarshalText reads Go's form.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil || v < 0 {
		return fmt.Errorf("invalid duration %q: want a form like 90s or 10m", b)
	}
	*d = Duration(v)
	return nil
}

// maxFile bounds a description, in bytes.
const maxFile = 64 << 10

// Parse reads a description and checks all of it. What is wrong is
// InvalidArgument and says where.
func Parse(text []byte) (*Description, error) {
	if len(text) > maxFile {
		return nil, invalid("more than %d bytes", maxFile)
	}
	d := &Description{}
	err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(d)
	var unknown *toml.StrictMissingError
	if errors.As(err, &unknown) && len(unknown.Errors) > 0 {
		line, _ := unknown.Errors[0].Position()
		return nil, invalid("line %d: unknown key %s", line, strings.Join(unknown.Errors[0].Key(), "."))
	}
	var bad *toml.DecodeError
	if errors.As(err, &bad) {
		line, _ := bad.Position()
		return nil, invalid("line %d: %s", line, bad.Error())
	}
	if err != nil {
		return nil, invalid("%v", err)
	}
	return d, d.validate()
}

// Digest identifies the text of a description.
func Digest(text []byte) string {
	sum := sha256.Sum256(text)
	return digest.NewDigestFromBytes(digest.SHA256, sum[:]).String()
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("engine description: "+format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}
