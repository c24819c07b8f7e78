package runtime

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"syscall"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// Paths inside every container that ctrsnap runs.
const (
	// SocketDir is where the server makes its unix socket. It is a bind mount
	// of a directory of the host.
	SocketDir = "/ctrsnap/run"
	// SourceDir is where a golden build finds its sources, as [Sources] says.
	SourceDir = "/ctrsnap/src"
)

// Engine knows one kind of database server. An Engine holds no state: what it
// learns about a database while it is built goes into [Built] and comes back
// as the golden's State. It is safe for concurrent use.
type Engine interface {
	Name() string
	// Host lists what of this host makes a root filesystem for the engine.
	// prefix is where its programs are: an installation prefix (PREFIX/bin/…), or
	// the root of an unpacked package (PREFIX/usr/lib/…), or "" for where the system
	// has them. NotFound, with a hint, if they are not there.
	Host(ctx context.Context, prefix string) (snapshot.HostTree, error)
	// Build fills the root filesystem of wb with a database made from src and
	// leaves it cleanly shut down, or fails.
	Build(ctx context.Context, wb Workbench, src Sources) (Built, error)

	// Server returns the process that serves a clone of the golden. settings go
	// over the golden's, and those over the engine's own. One that cannot be had
	// is InvalidArgument.
	Server(g snapshot.Golden, settings map[string]string) (Process, error)
	// Ready returns when the server at ep answers whoever connects, by its own word,
	// or with an error when ctx ends or died is closed.
	Ready(ctx context.Context, g snapshot.Golden, ep Endpoint, died <-chan struct{}) error
	// Query connects to a server that is ready, as a user of the clone, and asks a
	// real query. What a server does for its first connection only, it has done then.
	Query(ctx context.Context, g snapshot.Golden, ep Endpoint) error
	// Connect tells how a client reaches the server at ep.
	Connect(g snapshot.Golden, ep Endpoint) (Connection, error)
	// Client returns the interactive client that runs inside the clone
	// (psql …), connected to it. password is the clone's own, "" the golden's.
	Client(g snapshot.Golden, password string, args []string) (Process, error)
}

// ConnectionLimiter is an Engine that bounds how many connections a server takes.
type ConnectionLimiter interface {
	// LimitConnections returns the settings of a server that takes n at a time.
	// InvalidArgument if there are none, or n is fewer than it can be held to.
	LimitConnections(n int) (map[string]string, error)
}

// Settler is an Engine that tells what a clone's server is set to.
type Settler interface {
	// Settings returns the settings that Server gives, by name.
	Settings(g snapshot.Golden, settings map[string]string) ([]Setting, error)
}

// Setting is one setting of a server, with who chose it.
type Setting struct {
	Name, Value string
	From        string // SettingEngine, SettingGolden or SettingClone
	// Note says what it means for a user that a server of his own would do
	// otherwise; "" if nothing.
	Note string
}

// Values of Setting.From.
const (
	SettingEngine = "engine"
	SettingGolden = "golden" // given with the golden's build
	SettingClone  = "clone"
)

// Endpoint is where a server listens, seen from the host.
type Endpoint struct {
	SocketDir string     // directory on the host that is mounted at [SocketDir]
	Addr      netip.Addr // zero if there is no network
	Port      int        // of Addr, where it leads to the server by a port of the host's; 0 is the server's own
	// PID is the server's first process in the host's PID namespace, so that
	// /proc/PID/root is its root filesystem. What is there is not trusted.
	PID int
	// Again says that the server has run on these data before: what the golden remembers of them may be wrong.
	Again bool
	// Password is the one that the server was given by a [PasswordSession]; "" means the golden's.
	Password string
	// Exec runs p beside the server until it ends, and returns its exit code. It is nil where
	// that cannot be done.
	Exec func(ctx context.Context, p Process) (int, error)
}

// Describer is an Engine that tells a client what it has to know of the
// engine before it talks of goldens and clones.
type Describer interface{ Describe() Description }

// Description is what a client has to know of an engine. Paths are relative.
type Description struct {
	Scripts     []string // extensions of --init and --mask
	DumpDir     string   // file that a dump has which is a directory; "" if none is
	DataDir     []string // paths of which a data directory has one at least
	LinkedDirs  []string // of a data directory: links to directories that belong to it
	EmptyDirs   []string // of a data directory: what they have lies elsewhere
	SkippedDirs []string // of a data directory: what they have is not copied
	PIDFile     string   // of a data directory: names the process of its server in the first line
	Processes   []string // names of that process
	PasswordEnv string   // variable with the password of a URL that has none
	Settings    bool     // a server can be given settings
}

// Engines finds engines by name.
type Engines interface {
	// Engine returns an engine, or NotFound.
	Engine(name string) (Engine, error)
	// Names returns the names of all, sorted.
	Names() []string
}

// PasswordSetter is an Engine that can give a running server another password
// for the login that clones are handed out with.
type PasswordSetter interface {
	// SetsPasswords says whether clones of the golden can be given one.
	SetsPasswords(g snapshot.Golden) bool
	// NewPassword makes a password. What is slow about it is done here.
	NewPassword() (Password, error)
	// OpenPassword gets ready to set a password of the server at ep. What is slow
	// about it is done here, too. The caller must Close the session.
	OpenPassword(ctx context.Context, g snapshot.Golden, ep Endpoint) (PasswordSession, error)
}

// PasswordSession is a server that waits to be told a password. It is for one
// goroutine at a time.
type PasswordSession interface {
	// Set has the server take the password, and no other for that login.
	Set(ctx context.Context, p Password) error
	Close() error
}

// Password is a password and what a server is told in its place: it cannot be
// had back from that.
type Password struct{ Text, Verifier string }

// Connection is how a client reaches a server.
type Connection struct {
	URLs     map[string]string // by way: "socket", "tcp"
	Host     string            // of tcp
	Port     int
	Socket   string // path of the unix socket on the host
	User     string
	Password string
	Database string
	// Env are the engine's own variables (PGHOST …) by way.
	Env map[string]map[string]string
	// Unset are variables that would lead a client elsewhere although Env is set.
	Unset []string
	// Client is a program that finds the server by Env alone, or "".
	Client string
}

// Built is what an engine has built.
type Built struct {
	EngineVersion string
	State         json.RawMessage
	Hot           []string // see [snapshot.Golden]
}

// Sources is what a golden is built from. The files lie below [SourceDir] in the
// container and below Workbench.SourceDir on the host.
type Sources struct {
	Golden string // name of the golden to be built
	Base   snapshot.Base
	// Parent is the golden that Base is, if it is one: its database is there
	// already and only the refinements are to be applied.
	Parent *snapshot.Golden

	Init []string // files below "init/", in the order given: .sql .sql.gz .sql.zst .sh
	Dump string   // file or directory below "dump/", or ""
	// Before are dumps that come ahead of Dump, in the order given: of roles, as a rule.
	Before []string
	// GoOn says that what of a dump fails is told, and no end of the build.
	GoOn bool
	URL  string // of a live database to be dumped, or ""
	// Dir says that "dir/" holds a data directory to be copied.
	Dir  bool
	Exec []string // commands that the caller runs on the host
	Mask []string // files below "mask/"

	// User, Password and Database are those that clones are handed out with;
	// "" lets the engine choose. Login is such a user that the sources bring, to be handed out
	// with the rights that it has there.
	User, Password, Database, Login string
	Env                             map[string]string // POSTGRES_INITDB_ARGS and the like
	// Settings are the server's, in the build and in clones.
	Settings map[string]string
}

// Workbench is what a golden build lends an engine: a root filesystem under
// construction, containers to run in it, and a way to the caller. Its methods
// are called from one goroutine.
type Workbench interface {
	// Root runs fn with the root filesystem under construction mounted at dir
	// on the host. No container runs meanwhile.
	Root(ctx context.Context, fn func(dir string) error) error
	// SourceDir is the host's path of the sources, writable for the engine:
	// inside the container it is [SourceDir].
	SourceDir() string
	// Run runs p to its end in a container. Its output goes to the build log
	// as well as to stdio, but for a Stdout that is given and is not Stderr
	// too: that is data, may hold secrets, and goes there alone. An exit code
	// other than 0 is an [*ExitError].
	Run(ctx context.Context, p Process, opts RunOpts) error
	// Serve starts p in a container with a network address. The caller must
	// Stop it.
	Serve(ctx context.Context, p Process) (Service, error)
	// Host has the caller run a command on its own host with env added to its
	// environment. A failure is an [*ExitError].
	Host(ctx context.Context, command string, env map[string]string) error
	// Step says what begins ("restore shop.dump"); Progress how far it is, in
	// units of its choice (bytes, files), total 0 if unknown.
	Step(name string)
	Progress(done, total int64)
	// Log takes lines for the build log.
	Log() io.Writer
	// Warn tells the caller, at once and whatever else it wants to see, what of the sources is not in the
	// golden, or is otherwise. The golden remembers it. text is one sentence; it holds no secrets.
	Warn(text string)
}

// RunOpts refine Workbench.Run.
type RunOpts struct {
	Stdio
	// Reach is an address beyond this host that the process is to reach. One that the caller is not to reach by a build is
	// PermissionDenied, with a hint. The zero value reaches nothing.
	Reach netip.Addr
}

// Service is a server that runs during a golden build.
type Service interface {
	Endpoint() Endpoint
	// Died is closed when the server's process has ended.
	Died() <-chan struct{}
	// Exec runs p beside the server, as Workbench.Run does.
	Exec(ctx context.Context, p Process, stdio Stdio) error
	// Stop sends sig and waits until the server has ended; when ctx ends first
	// it kills. Stop is idempotent. The exit code of the server is an
	// [*ExitError] if it is not 0.
	Stop(ctx context.Context, sig syscall.Signal) error
}

// ExitError is a process that ended with an exit code other than 0.
type ExitError struct {
	Command string
	Code    int
	Output  string // the last lines that it wrote
}

func (e *ExitError) Error() string {
	if e.Output == "" {
		return fmt.Sprintf("%s: exit code %d", e.Command, e.Code)
	}
	return fmt.Sprintf("%s: exit code %d: %s", e.Command, e.Code, e.Output)
}

// EngineSet are engines that do not change, by name.
type EngineSet map[string]Engine

var _ Engines = EngineSet(nil)

// Engine implements [Engines].
func (s EngineSet) Engine(name string) (Engine, error) {
	if e, ok := s[name]; ok {
		return e, nil
	}
	return nil, fmt.Errorf("engine %.80q: %w", name, errdefs.ErrNotFound)
}

// Names implements [Engines].
func (s EngineSet) Names() []string { return slices.Sorted(maps.Keys(s)) }
