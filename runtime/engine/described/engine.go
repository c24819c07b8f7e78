package described

import (
	"cmp"
	"context"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// Login is who connects to a server.
type Login struct{ User, Password, Database string }

// Protocol asks a server in its own words, where a connection that is taken
// says too little.
type Protocol interface {
	// Ask logs in over conn and asks a real query. Unavailable says that the server
	// takes connections already and is not ready: it is asked again. The caller closes conn.
	Ask(ctx context.Context, conn net.Conn, login Login) error
}

// PasswordProtocol is a Protocol by which a login changes its own password.
type PasswordProtocol interface {
	// Verifier returns what a server is told in place of a password. It is the
	// password itself where a server takes nothing else.
	Verifier(password string) string
	// OpenPassword logs in and gets ready to change the password. dial connects to the server.
	OpenPassword(ctx context.Context, dial func(context.Context) (net.Conn, error), login Login) (runtime.PasswordSession, error)
}

// Engine serves what a [Description] describes. It is safe for concurrent use.
type Engine struct {
	d        *Description
	text     string // "" of a built-in engine
	digest   string
	protocol Protocol // nil: as Description.Ready says
	parsed   sync.Map // earlier descriptions by digest
}

var (
	_ runtime.Engine    = (*Engine)(nil)
	_ runtime.Settler   = (*Engine)(nil)
	_ runtime.Describer = (*Engine)(nil)

	_ runtime.PasswordSetter    = (*Engine)(nil)
	_ runtime.ConnectionLimiter = (*Engine)(nil)
)

// New returns the engine of a description that a user gave. Goldens keep the text.
func New(text []byte) (*Engine, error) {
	d, err := Parse(text)
	if err != nil {
		return nil, err
	}
	return &Engine{d: d, text: string(text), digest: Digest(text)}, nil
}

// BuiltIn returns the engine of a description that comes with the program, which
// serves older goldens of it, too. A description that is wrong is a panic.
func BuiltIn(text string, p Protocol) *Engine {
	d, err := Parse([]byte(text))
	if err != nil {
		panic(err) // found by every test
	}
	return &Engine{d: d, digest: Digest([]byte(text)), protocol: p}
}

// Protocol returns what asks its servers, or nil.
func (e *Engine) Protocol() Protocol { return e.protocol }

// Name returns the engine's name.
func (e *Engine) Name() string { return e.d.Name }

// Digest identifies the description.
func (e *Engine) Digest() string { return e.digest }

// Describe implements [runtime.Describer].
func (e *Engine) Describe() runtime.Description {
	how := e.d.Build
	info := runtime.Description{
		DataDir: how.DirMarkers, PIDFile: how.DirPID, PasswordEnv: how.URLPasswordEnv,
		Settings: len(e.d.Settings.Args) > 0,
	}
	for ext := range e.d.Build.Scripts {
		info.Scripts = append(info.Scripts, ext)
	}
	info.Scripts = append(info.Scripts, ".sh")
	slices.Sort(info.Scripts)
	return info
}

// Connect returns the ways to the server.
func (e *Engine) Connect(g snapshot.Golden, ep runtime.Endpoint) (runtime.Connection, error) {
	s, err := e.of(g)
	if err != nil {
		return runtime.Connection{}, err
	}
	if ep.Password != "" {
		s.Passwd = ep.Password
	}
	return s.connection(ep)
}

func (s served) connection(ep runtime.Endpoint) (runtime.Connection, error) {
	c := runtime.Connection{
		URLs: map[string]string{}, Env: map[string]map[string]string{}, Unset: s.d.Connect.Unset, Client: s.d.Client.Local,
		User: s.User, Password: s.Passwd, Database: s.DB, Socket: s.socket(ep.SocketDir),
	}
	f := s.fields()
	f.Socket = c.Socket
	if ep.Addr.IsValid() && s.d.Server.Port != 0 {
		c.Host, c.Port = ep.Addr.String(), cmp.Or(ep.Port, s.d.Server.Port)
		f.Host, f.Port = c.Host, strconv.Itoa(c.Port)
	}
	for _, way := range []string{"tcp", "socket"} {
		text := s.d.Connect.URL[way]
		if text == "" || way == "tcp" && c.Host == "" || way == "socket" && c.Socket == "" {
			continue
		}
		url, err := f.expand(text)
		if err != nil {
			return c, err
		}
		env, err := f.values(s.d.Connect.Env[way])
		if err != nil {
			return c, err
		}
		c.URLs[way], c.Env[way] = url, env
	}
	return c, nil
}

// Client returns the client that the description names, or a shell.
func (e *Engine) Client(g snapshot.Golden, password string, args []string) (runtime.Process, error) {
	s, err := e.of(g)
	if err != nil {
		return runtime.Process{}, err
	}
	if password != "" {
		s.Passwd = password
	}
	command := s.d.Client.Args
	if len(command) == 0 {
		command = []string{"/bin/sh"}
	}
	p, err := s.process(s.fields(), command, s.d.Client.Env)
	p.Args = append(p.Args, args...)
	return p, err
}

func stopTimeout(d *Description) time.Duration { return time.Duration(d.Server.StopTimeout) }
