// Package api holds ctrsnapd's HTTP/JSON API: its documents, and its endpoints as values of [Route]. It is the contract
// between daemon, command line and anything that speaks HTTP on a unix socket, which finds it as /openapi.json, too.
// /metrics beside it is for Prometheus.
//
// It imports the standard library only, so that a client stays lean. Fields are added, never changed or removed. The
// server is in the package below, the Go client in runtime/client.
package api

import (
	"fmt"
	"time"
)

// Protocol versions of this API. A client and a daemon understand each other
// if the client's Protocol lies in the daemon's [MinProtocol, Protocol].
const (
	Protocol    = 1
	MinProtocol = 1
)

// Header names.
const (
	// HeaderProtocol carries the protocol version of a client's request.
	HeaderProtocol = "Ctrsnap-Protocol"
	// TrailerError carries an ErrorBody at the end of an answer that had begun
	// when things went wrong.
	TrailerError = "Ctrsnap-Error"
	// ExecProtocol is the value of the Upgrade header of an exec.
	ExecProtocol = "ctrsnap-exec"
	// HeaderQueue in a request for clones asks to be told of its place in the
	// queue: by answers 102 (RFC 2518) ahead of the real one, whose header of
	// that name has the place, from 1, and the time that it may take, as in
	// "3 250ms".
	HeaderQueue = "Ctrsnap-Queue"
)

// DefaultHost is where the daemon listens unless told otherwise.
const DefaultHost = "unix:///run/ctrsnap/ctrsnap.sock"

// Schema is the value of every document's "schema" field.
const Schema = 1

// Version says who the daemon is and what it understands.
type Version struct {
	Schema      int    `json:"schema"`
	Version     string `json:"version"`
	Commit      string `json:"commit,omitempty"`
	Protocol    int    `json:"protocol"`
	MinProtocol int    `json:"min_protocol"`
	Containerd  string `json:"containerd,omitempty"` // version
	Embedded    bool   `json:"embedded"`             // containerd runs in process
}

// Code is an error class; each has an exit code and an HTTP status.
type Code string

// Error classes.
const (
	CodeGeneral       Code = "general"
	CodeUsage         Code = "usage"
	CodeNotFound      Code = "not_found"
	CodeTimeout       Code = "timeout"
	CodeCapacity      Code = "capacity"
	CodeNotAllowed    Code = "not_allowed"
	CodeGoldenInvalid Code = "golden_invalid"
	CodeConflict      Code = "conflict"
)

// Error is what a failed request returns, and what the command line prints
// with -o json.
type Error struct {
	Code      Code   `json:"code"`
	Message   string `json:"message"`
	Hint      string `json:"hint,omitempty"`
	Retryable bool   `json:"retryable"`
	// Status is the HTTP status that it came with; 0 if it did not come from the daemon, or in an answer that had begun.
	Status int `json:"-"`
}

func (e *Error) Error() string { return e.Message }

// ErrorBody is the document around an Error.
type ErrorBody struct {
	Error *Error `json:"error"`
}

// ExitCode returns the exit code of the command line for the class.
func (c Code) ExitCode() int {
	switch c {
	case CodeUsage:
		return 2
	case CodeNotFound:
		return 3
	case CodeTimeout:
		return 4
	case CodeCapacity:
		return 5
	case CodeNotAllowed:
		return 6
	case CodeGoldenInvalid:
		return 7
	case CodeConflict:
		return 8
	default:
		return 1
	}
}

// Stage is a named step of the clone path. API timings, spans, metrics and
// benchmarks use these names alike.
type Stage string

// The stages, in order. A clone from the pool has StageClaim and
// StagePersonalise only.
const (
	StageClaim       Stage = "claim"
	StagePrepare     Stage = "prepare"
	StageNetwork     Stage = "network"
	StageCreate      Stage = "create"
	StageStart       Stage = "start"
	StageReady       Stage = "ready"
	StagePersonalise Stage = "personalise"
	StageTotal       Stage = "total"
)

// Stages lists the stages in order, StageTotal last.
var Stages = []Stage{
	StageClaim, StagePrepare, StageNetwork, StageCreate, StageStart, StageReady, StagePersonalise, StageTotal,
}

// Timings are milliseconds by stage; only stages that happened are there.
type Timings map[Stage]float64

// CloneRequest asks for clones of one golden, or of several for one job: all
// of them or none.
type CloneRequest struct {
	Golden      string            `json:"golden" doc:"name or name:version" example:"shop"`
	Count       int               `json:"count,omitempty" minimum:"1" maximum:"1000" doc:"how many; default 1"`
	Name        string            `json:"name,omitempty" doc:"name of the clone; with count, NAME-1 … NAME-N"`
	IfExists    IfExists          `json:"if_exists,omitempty" enum:"fail,reuse,reset" doc:"what to do if a clone of that name exists; default fail"`
	TTL         Duration          `json:"ttl,omitempty" doc:"lifetime, as in 90s, 30m, 2h; default the daemon's"`
	Labels      map[string]string `json:"labels,omitempty"`
	Settings    map[string]string `json:"settings,omitempty" doc:"server settings of this clone, over the golden's and the engine's own"`
	OwnPassword bool              `json:"own_password,omitempty" doc:"give each clone a password of its own, in place of the golden's; a clone that is reused keeps the one it has"`
	Egress      *bool             `json:"egress,omitempty" doc:"whether the clones reach what is beyond the host; default the daemon's"`
	IP          string            `json:"ip,omitempty" doc:"wanted IPv4 address, of the daemon's subnet; for one clone" example:"10.213.0.77"`
	Networks    []string          `json:"networks,omitempty" doc:"names of the networks to attach the clones to, the first with eth0; default the daemon's one"`
	Attach      []AttachRequest   `json:"attach,omitempty" maxItems:"8" doc:"further interfaces on networks of the host, for administrators; a fixed address is for one clone, a clone that is reused keeps what it has"`
	Publish     []string          `json:"publish,omitempty" maxItems:"8" doc:"ports of the host that lead to the clone, each [IP:]PORT; 0 is a free one. Several clones take free ones only" example:"127.0.0.1:5433"`
	Limits      Limits            `json:"limits,omitzero" doc:"default the daemon's"`
	IdleTTL     Duration          `json:"idle_ttl,omitempty" doc:"end a clone that nobody has been connected to for so long"`
	Protect     bool              `json:"protect,omitempty" doc:"neither its TTL, nor idleness, its lease or a removal without force ends it"`
	// Lease "connection" ties the clones to GET /v1/leases/{id}: they end when
	// that connection does. It must be opened within ten seconds.
	Lease LeaseKind `json:"lease,omitempty" enum:"ttl,connection,pid,cgroup" doc:"what the clones live by; default ttl"`
	// LeaseHolder is the number of the process, or the path of the cgroup, that the lease is held by.
	LeaseHolder string `json:"lease_holder,omitempty" doc:"for lease pid and cgroup"`
	// LeaseID adds the clones to a lease that exists.
	LeaseID string `json:"lease_id,omitempty"`
	// WaitTimeout bounds how long the request may queue while others have
	// their clones made. What begins in time is finished.
	WaitTimeout Duration `json:"wait_timeout,omitempty" doc:"how long to queue when many ask at once; default without end"`
}

// IfExists says what happens when a clone of the wanted name exists.
type IfExists string

// Values of IfExists.
const (
	IfExistsFail  IfExists = "fail"
	IfExistsReuse IfExists = "reuse"
	IfExistsReset IfExists = "reset"
)

// LeaseKind says what a clone lives by.
type LeaseKind string

// Values of LeaseKind.
const (
	LeaseTTL        LeaseKind = "ttl"
	LeaseConnection LeaseKind = "connection"
	LeasePID        LeaseKind = "pid"    // until the process ends
	LeaseCgroup     LeaseKind = "cgroup" // until no process is in the cgroup, or below
)

// CloneResponse is the answer to a CloneRequest.
type CloneResponse struct {
	Schema  int     `json:"schema"`
	Clones  []Clone `json:"clones"`
	LeaseID string  `json:"lease_id,omitempty"`
}

// Clone is a clone as its user sees it.
type Clone struct {
	Schema      int                          `json:"schema"`
	ID          string                       `json:"id"`
	Name        string                       `json:"name,omitempty"`
	Golden      string                       `json:"golden"`
	Version     int                          `json:"version"`
	Engine      string                       `json:"engine"`
	State       CloneState                   `json:"state"`
	Created     bool                         `json:"created"` // false: it existed already (if_exists=reuse)
	CreatedAt   time.Time                    `json:"created_at"`
	ExpiresAt   *time.Time                   `json:"expires_at,omitempty"` // nil: lives by its connection
	URL         string                       `json:"url"`                  // tcp, or socket where there is no network
	URLs        map[string]string            `json:"urls"`                 // by way: "socket", "tcp", "published"
	Host        string                       `json:"host,omitempty"`
	Port        int                          `json:"port,omitempty"`
	Socket      string                       `json:"socket,omitempty"` // path of the unix socket
	User        string                       `json:"user"`
	Password    string                       `json:"password,omitempty"`
	Database    string                       `json:"database"`
	Egress      bool                         `json:"egress,omitempty"`    // it reaches what is beyond the host
	DNSName     string                       `json:"dns_name,omitempty"`  // by which this host and clones of its lease find it
	DNSNames    []string                     `json:"dns_names,omitempty"` // the same, and GOLDEN.LEASE for all of its lease
	Published   []string                     `json:"published,omitempty"` // HOST:PORT of this host that lead to it
	Networks    []string                     `json:"networks,omitempty"`  // that it asked for by name
	Attached    []Attachment                 `json:"attached,omitempty"`  // further interfaces on networks of the host
	PID         int                          `json:"pid,omitempty"`
	Isolation   Isolation                    `json:"isolation,omitempty"`
	Labels      map[string]string            `json:"labels,omitempty"`
	Settings    map[string]string            `json:"settings,omitempty"` // server settings that it was asked for with
	DiskBytes   int64                        `json:"disk_bytes"`         // not shared with the golden
	MemoryBytes int64                        `json:"memory_bytes"`
	Limits      Limits                       `json:"limits,omitzero"`
	IdleTTL     Duration                     `json:"idle_ttl,omitempty"`
	Protected   bool                         `json:"protected,omitempty"`
	Reason      string                       `json:"reason,omitempty"` // why it is dead
	Timings     Timings                      `json:"timings"`
	Env         map[string]map[string]string `json:"env,omitempty"`       // the engine's variables by way (PGHOST …)
	UnsetEnv    []string                     `json:"unset_env,omitempty"` // variables that would lead a client elsewhere all the same
	Client      string                       `json:"client,omitempty"`    // program that finds the server by Env alone (psql)
	LeaseID     string                       `json:"lease_id,omitempty"`
	Owner       string                       `json:"owner,omitempty"` // user that asked for it
	// OwnPassword says that Password is this clone's alone. Only its owner
	// and root are shown it.
	OwnPassword bool `json:"own_password,omitempty"`
	// ServerSettings and Durability are told of one clone that is asked for by
	// its id: what the server is set to beside its data directory's own.
	ServerSettings []ServerSetting `json:"server_settings,omitempty"`
	// Durability is "off": what a clone has written is gone with its host.
	Durability string `json:"durability,omitempty"`
}

// Isolation says how a clone's container is kept apart from the host.
type Isolation string

// Values of Clone.Isolation.
const (
	IsolationUsers Isolation = "userns" // its users are nobody on the host, root among them
	IsolationRunc  Isolation = "runc"   // as runc does it by default: its users are the host's of the same number
)

// ServerSetting is one setting of a clone's server, with who chose it.
type ServerSetting struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	From  string `json:"from"`           // engine, golden (given with its build), clone
	Note  string `json:"note,omitempty"` // what it means that a server of one's own would do otherwise
}

// DurabilityOff is the one value of Clone.Durability.
const DurabilityOff = "off"

// CloneState is where a clone is in its life.
type CloneState string

// Values of CloneState.
const (
	StateRunning CloneState = "running"
	StateDead    CloneState = "dead" // its server has ended by itself
)

// ExtendRequest moves the end of a clone's life to TTL from now.
type ExtendRequest struct {
	TTL     Duration `json:"ttl,omitempty" doc:"needed unless protect is given"`
	Protect *bool    `json:"protect,omitempty" doc:"whether anything but a removal with force ends it"`
}

// Golden is a golden as its user sees it: no secrets.
type Golden struct {
	Schema        int    `json:"schema"`
	Name          string `json:"name"`
	Version       int    `json:"version"`
	Current       bool   `json:"current"`
	Engine        string `json:"engine"`
	EngineVersion string `json:"engine_version"`
	Key           string `json:"key,omitempty"`
	// KeyParts are digests of what else made the golden, by what they are of; of one that was built with a key.
	KeyParts     map[string]string `json:"key_parts,omitempty"`
	Parent       string            `json:"parent,omitempty"`
	Base         Base              `json:"base"`
	Sources      []Source          `json:"sources,omitempty"`
	Builder      string            `json:"builder,omitempty"`
	CreatedAt    time.Time         `json:"created_at"`
	BuildSeconds float64           `json:"build_seconds"`
	SizeBytes    int64             `json:"size_bytes"`
	Digest       string            `json:"digest,omitempty"`
	Clones       int               `json:"clones"` // how many live clones it has
	// Settings are the server's, given with the build.
	Settings map[string]string `json:"settings,omitempty"`
	// Warnings say what of its sources is not in the golden, or is otherwise.
	Warnings []string `json:"warnings,omitempty"`
	// Owner, Group and Mode, as in "0644", are of all versions of the name: r is to see and
	// clone, w to build further versions, promote, roll back and remove.
	Owner string `json:"owner"`
	Group string `json:"group"`
	Mode  string `json:"mode"`
	// Protected says that no version of the name is pruned.
	Protected bool `json:"protected,omitempty"`
	// UsedAt says when it was built, or when a clone of it was last made or has last ended.
	UsedAt time.Time `json:"used_at,omitzero"`
	// DamagedAt says when it was found not to be what was built: it is not cloned.
	DamagedAt time.Time `json:"damaged_at,omitzero"`
}

// AccessRequest changes who may do what with the goldens of a name; what is empty
// stays. The owner may give the mode and a group that he is in, administrators all.
type AccessRequest struct {
	Owner string `json:"owner,omitempty" doc:"user name or number, or cert:NAME for a caller of other hosts"`
	Group string `json:"group,omitempty" doc:"group name or number"`
	Mode  string `json:"mode,omitempty" doc:"octal, as in 0640"`

	Protected *bool `json:"protected,omitempty" doc:"whether versions are kept from being pruned"`
}

// PruneRequest says which versions of goldens are no longer wanted: those that are neither among the newest Keep of
// their name nor used within UnusedFor. One of the two has to be given. The current version stays, and so do versions
// that have clones, that others are built on, or that are protected.
type PruneRequest struct {
	Name      string   `json:"name,omitempty" doc:"only versions of this golden"`
	Keep      int      `json:"keep,omitempty" minimum:"0" doc:"how many of the newest versions of each name stay"`
	UnusedFor Duration `json:"unused_for,omitempty" doc:"what was used within this time stays"`
	DryRun    bool     `json:"dry_run,omitempty" doc:"only say what would be removed"`
}

// Base is what a golden's root filesystem came from.
type Base struct {
	Kind   string `json:"kind"` // host, image, archive, golden
	Ref    string `json:"ref"`
	Digest string `json:"digest,omitempty"`
}

// Source is one thing that a golden was built from.
type Source struct {
	Kind   string `json:"kind"`
	Name   string `json:"name"`
	Digest string `json:"digest,omitempty"`
	Size   int64  `json:"size,omitempty"`
}

// BuildRequest asks for a golden. It is the part "spec" of a multipart/form-data
// body; the parts after it are the files, each with its kind as form name and a
// plain file name:
//
//	init     a script; in the order of the parts
//	dump     a file; or dump-tar, a tar of a directory-format dump
//	dir-tar  a tar of a data directory
//	archive  an image archive (docker save, OCI layout)
//	mask     a script; in the order of the parts
type BuildRequest struct {
	Name   string `json:"name"`
	Engine string `json:"engine,omitempty" doc:"default postgres"`

	// One base; none of them means --from-host.
	FromHost bool   `json:"from_host,omitempty"`
	Prefix   string `json:"prefix,omitempty" doc:"of --from-host: where the engine's programs are"`
	Image    string `json:"image,omitempty" doc:"reference to be pulled"`
	Archive  bool   `json:"archive,omitempty" doc:"the part archive is the base"`
	Parent   string `json:"parent,omitempty" doc:"golden to build on"`

	FromURL  string            `json:"from_url,omitempty" doc:"live database to be dumped"`
	Exec     []string          `json:"exec,omitempty" doc:"commands that the caller runs when asked by an event"`
	User     string            `json:"user,omitempty"`
	Password string            `json:"password,omitempty"`
	Database string            `json:"database,omitempty"`
	Login    string            `json:"login,omitempty" doc:"role of the sources that clones are handed out with, with its own rights"`
	OnError  string            `json:"on_error,omitempty" doc:"what a dump's errors do: stop the build (default), or continue it and be told as warnings"`
	Env      map[string]string `json:"env,omitempty"`
	Settings map[string]string `json:"settings,omitempty" doc:"server settings of the golden's clones; a parent's are inherited"`

	// Key is the digest of the files that decide about the golden's content. If the current or an older version of Name
	// was built with it, and with the same of all else that makes a golden, nothing is built.
	Key string `json:"key,omitempty"`
	// KeyParts are digests, of 32 hexadecimal digits, of the parts that the request will send, by kind.
	KeyParts map[string]string `json:"key_parts,omitempty"`
	Force    bool              `json:"force,omitempty" doc:"build although the name's current version is of another engine"`
	Mode     string            `json:"mode,omitempty" doc:"who may do what with a golden whose name is new, as in 0640; default the daemon's"`
	// CheckOnly asks whether a golden with Key exists and builds nothing.
	CheckOnly bool `json:"check_only,omitempty"`
}

// BuildEvent is one line of the answer to a BuildRequest. The last one has
// type "done" or "error".
type BuildEvent struct {
	Type string `json:"type"` // id, step, progress, log, warning, exec, done, error
	// BuildID comes first, with type "id".
	BuildID string `json:"build_id,omitempty"`
	Step    string `json:"step,omitempty"` // what begins now
	Done    int64  `json:"done,omitempty"` // progress within the step
	Total   int64  `json:"total,omitempty"`
	Log     string `json:"log,omitempty"` // lines of the build log
	// Warning is something of the sources that will not be in the golden, or otherwise.
	Warning string `json:"warning,omitempty"`
	// Exec asks the caller to run a command with Env and answer with POST
	// /v1/builds/{id}/exec. The answer has the same Token, which nobody else is told.
	Exec   string            `json:"exec,omitempty"`
	Env    map[string]string `json:"env,omitempty"`
	Token  string            `json:"token,omitempty"`
	Golden *Golden           `json:"golden,omitempty"`
	// Existed says that a golden with the wanted key was there: nothing was built.
	Existed bool   `json:"existed,omitempty"`
	Error   *Error `json:"error,omitempty"`
}

// Engine is one kind of server as its user sees it.
type Engine struct {
	Schema  int    `json:"schema"`
	Name    string `json:"name"`
	BuiltIn bool   `json:"built_in"`
	// Digest identifies the description, AddedAt says since when it is there; of
	// engines that were added.
	Digest  string     `json:"digest,omitempty"`
	AddedAt *time.Time `json:"added_at,omitempty"`
	Goldens int        `json:"goldens"` // versions of goldens that it serves
	// Description is the file; of one engine that is asked for by its name.
	Description string `json:"description,omitempty"`

	Scripts     []string `json:"scripts"`                // extensions of --init and --mask
	DumpDir     string   `json:"dump_dir,omitempty"`     // file that a dump has which is a directory
	DataDir     []string `json:"data_dir,omitempty"`     // paths of which a data directory has one at least
	LinkedDirs  []string `json:"linked_dirs,omitempty"`  // of a data directory: links to directories that belong to it
	SkippedDirs []string `json:"skipped_dirs,omitempty"` // of a data directory: what they have is not copied
	EmptyDirs   []string `json:"empty_dirs,omitempty"`   // of a data directory: what they have lies elsewhere and cannot be copied
	PIDFile     string   `json:"pid_file,omitempty"`     // of a data directory: names the process of its server
	Processes   []string `json:"processes,omitempty"`    // names of that process
	PasswordEnv string   `json:"password_env,omitempty"` // variable with the password of --from-url
	Settings    bool     `json:"settings"`               // its servers take settings
}

// EngineRequest adds an engine: Description is the text of a file in TOML.
type EngineRequest struct {
	Description string `json:"description"`
}

// HostResult is how a command that the caller ran ended.
type HostResult struct {
	ExitCode int    `json:"exit_code"`
	Output   string `json:"output,omitempty" doc:"its last lines"`
	Token    string `json:"token,omitempty" doc:"that of the event that asked for the command"`
}

// ExecRequest is the first frame of an exec.
type ExecRequest struct {
	Args     []string `json:"args"`
	Env      []string `json:"env,omitempty"`
	Cwd      string   `json:"cwd,omitempty"`
	User     string   `json:"user,omitempty" doc:"default the server's own"`
	Terminal bool     `json:"terminal,omitempty"`
	Rows     uint16   `json:"rows,omitempty"`
	Cols     uint16   `json:"cols,omitempty"`
}

// ClientRequest is the command that connects an interactive client inside a
// clone.
type ClientRequest struct {
	Args []string `json:"args"`
	Env  []string `json:"env"`
}

// Doctor is the daemon's view of its host.
type Doctor struct {
	Schema int     `json:"schema"`
	Checks []Check `json:"checks"`
}

// Check is one finding.
type Check struct {
	Name   string `json:"name"`
	Status string `json:"status"` // ok, warning, error
	Detail string `json:"detail"` // what is
	Why    string `json:"why,omitempty"`
	Fix    string `json:"fix,omitempty"` // what to do
}

// Duration is a time.Duration that JSON writes as "1h30m0s".
type Duration time.Duration

// MarshalText writes Go's form.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads Go's form. Negative durations are refused.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil || v < 0 {
		return fmt.Errorf("invalid duration %q: want a form like 90s, 30m or 2h", b)
	}
	*d = Duration(v)
	return nil
}
