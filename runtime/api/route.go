package api

// Route is one endpoint. The server registers it, the client calls it and the OpenAPI document describes it, all three
// by this one value.
//
// Req is what a request carries: fields tagged path and query, and a field Body that is sent as JSON. A query field that
// is zero is not sent, unless it is tagged with a default. Resp is the document of the answer: [None] where there is
// none, [Streamed] where the answer is written and read piece by piece.
type Route[Req, Resp any] struct {
	Method  string
	Path    string // with {name} for the field tagged path:"name"
	ID      string // names the operation in the OpenAPI document
	Summary string
}

// None is a request that carries nothing, or an answer without content.
type None struct{}

// Streamed is the Resp of a route whose answer lasts. The route's comment says what the answer consists of.
type Streamed struct{}

// The daemon and its host.
var (
	GetVersion     = Route[None, Version]{"GET", "/v1/version", "version", "Say who the daemon is"}
	GetDoctor      = Route[None, Doctor]{"GET", "/v1/doctor", "doctor", "Check the daemon's host"}
	FixHost        = Route[None, Doctor]{"POST", "/v1/doctor/fix", "fix", "Mend what can be of what the doctor finds"}
	ShowGarbage    = Route[None, GC]{"GET", "/v1/gc", "show-garbage", "Show what there is of clones and builds, and what of it nobody has; for administrators"}
	CollectGarbage = Route[None, GC]{"POST", "/v1/gc", "collect-garbage", "Remove what nobody has; for administrators"}
	GetStats       = Route[None, Stats]{"GET", "/v1/stats", "stats", "Tell what clones use"}
	// ReadEvents answers with an [Event] a line.
	ReadEvents = Route[EventsArgs, Streamed]{"GET", "/v1/events", "events", "Tell what has happened lately, and what happens"}
)

// Goldens.
var (
	ListGoldens    = Route[ListGoldensArgs, []Golden]{"GET", "/v1/goldens", "list-goldens", "List goldens"}
	GetGolden      = Route[GoldenArgs, Golden]{"GET", "/v1/goldens/{ref}", "get-golden", "Show a golden"}
	PromoteGolden  = Route[GoldenArgs, Golden]{"POST", "/v1/goldens/{ref}/promote", "promote-golden", "Make a version the current one"}
	VerifyGolden   = Route[GoldenArgs, Golden]{"POST", "/v1/goldens/{ref}/verify", "verify-golden", "Compare a golden with the digest of what was built"}
	RollbackGolden = Route[GoldenNameArgs, Golden]{"POST", "/v1/goldens/{name}/rollback", "rollback-golden", "Make the version before the current one current"}
	SetAccess      = Route[AccessArgs, Golden]{"POST", "/v1/goldens/{name}/access", "set-golden-access", "Say who may do what with a golden"}
	RemoveGolden   = Route[GoldenArgs, None]{"DELETE", "/v1/goldens/{ref}", "remove-golden", "Remove a version of a golden, or all"}
	// PruneGoldens answers with what was removed, or would be.
	PruneGoldens = Route[PruneArgs, []Golden]{"POST", "/v1/goldens/prune", "prune-goldens", "Remove versions of goldens that nobody wants any more"}
	// BuildGolden takes a multipart form, see [BuildRequest], and answers with a [BuildEvent] a line.
	BuildGolden = Route[None, Streamed]{"POST", "/v1/goldens", "build-golden", "Build a golden"}
	AnswerBuild = Route[AnswerArgs, None]{"POST", "/v1/builds/{id}/exec", "answer-build", "Tell a build how a command ended that it asked for"}
)

// Clones.
var (
	CreateClones = Route[CreateArgs, CloneResponse]{"POST", "/v1/clones", "create-clones", "Make clones of a golden"}
	ListClones   = Route[ListClonesArgs, []Clone]{"GET", "/v1/clones", "list-clones", "List clones"}
	GetClone     = Route[CloneArgs, Clone]{"GET", "/v1/clones/{id}", "get-clone", "Show a clone"}
	RemoveClone  = Route[RemoveArgs, None]{"DELETE", "/v1/clones/{id}", "remove-clone", "End a clone"}
	ExtendClone  = Route[ExtendArgs, Clone]{"POST", "/v1/clones/{id}/extend", "extend-clone", "Let a clone live longer"}
	RestartClone = Route[CloneArgs, Clone]{"POST", "/v1/clones/{id}/restart", "restart-clone", "Have a clone's server end in order and start again, on its data"}
	GetClient    = Route[ClientArgs, ClientRequest]{"GET", "/v1/clones/{id}/client", "get-client", "Give the command that connects an interactive client"}
	// ReadLogs answers with text. An error after the text has begun is in the trailer [TrailerError].
	ReadLogs = Route[LogsArgs, Streamed]{"GET", "/v1/clones/{id}/logs", "clone-logs", "Read what a clone's server has written"}
	// ExecInClone wants an upgrade to [ExecProtocol], then both sides send frames, see [ReadFrame].
	ExecInClone = Route[CloneArgs, Streamed]{"POST", "/v1/clones/{id}/exec", "exec", "Run a command in a clone"}
	// HoldLease answers with a [Lease] and stays open for as long as the lease is held.
	HoldLease = Route[LeaseArgs, Streamed]{"GET", "/v1/leases/{id}", "hold-lease", "Hold a lease for as long as the connection is open"}
)

// Pools, networks and engines.
var (
	ListPools       = Route[None, []Pool]{"GET", "/v1/pools", "list-pools", "List the pools of clones that are made ahead"}
	SetPool         = Route[SetPoolArgs, Pool]{"POST", "/v1/pools/{golden}", "set-pool", "Set how many clones of a golden are kept ahead"}
	ListNetworks    = Route[None, Networks]{"GET", "/v1/networks", "list-networks", "List the networks that clones can be attached to"}
	ListInterfaces  = Route[CloneArgs, []Interface]{"GET", "/v1/clones/{id}/interfaces", "list-interfaces", "List the interfaces of a clone"}
	AttachInterface = Route[AttachArgs, Attachment]{"POST", "/v1/clones/{id}/interfaces", "attach-interface", "Attach a clone to a network of the host"}
	DetachInterface = Route[DetachArgs, None]{"DELETE", "/v1/clones/{id}/interfaces/{ifname}", "detach-interface", "Take an interface away that was attached"}
	ListEngines     = Route[None, []Engine]{"GET", "/v1/engines", "list-engines", "List the engines"}
	GetEngine       = Route[EngineArgs, Engine]{"GET", "/v1/engines/{name}", "get-engine", "Show an engine"}
	AddEngine       = Route[AddEngineArgs, Engine]{"POST", "/v1/engines", "add-engine", "Add an engine that a file describes, or replace it"}
	RemoveEngine    = Route[EngineArgs, None]{"DELETE", "/v1/engines/{name}", "remove-engine", "Remove an engine that was added"}
)

// EventsArgs choose events; what is empty chooses all.
type EventsArgs struct {
	Follow bool     `query:"follow" doc:"go on with what happens, until the connection ends"`
	Since  uint64   `query:"since" doc:"only events after the one with this id"`
	Types  []string `query:"type,explode" doc:"only these types; clone stands for clone.created and all others"`
	Clone  string   `query:"clone" doc:"only of this clone: id or name"`
	Golden string   `query:"golden" doc:"only of this golden: shop, or shop:3"`
}

// ListGoldensArgs choose goldens.
type ListGoldensArgs struct {
	Name string `query:"name" doc:"only versions of this golden"`
}

// GoldenArgs name a golden. Without a version it is the current one, or all of them where it is removed.
type GoldenArgs struct {
	Ref string `path:"ref" doc:"name, or name:version" example:"shop:3"`
}

// GoldenNameArgs name all versions of a golden.
type GoldenNameArgs struct {
	Name string `path:"name" example:"shop"`
}

// AccessArgs say who may do what with all versions of a golden.
type AccessArgs struct {
	Name string `path:"name" example:"shop"`
	Body AccessRequest
}

// PruneArgs say which versions of goldens are no longer wanted.
type PruneArgs struct{ Body PruneRequest }

// AnswerArgs tell a build how a command ended.
type AnswerArgs struct {
	ID   string `path:"id" doc:"of the build, from its first event"`
	Body HostResult
}

// CreateArgs ask for clones.
type CreateArgs struct{ Body CloneRequest }

// ListClonesArgs choose clones.
type ListClonesArgs struct {
	Labels []string `query:"label,explode" doc:"key=value; only clones that have all of them"`
}

// CloneArgs name a clone.
type CloneArgs struct {
	ID string `path:"id" doc:"id, unique prefix of one, or name"`
}

// RemoveArgs name the clone that is to end.
type RemoveArgs struct {
	ID    string `path:"id" doc:"id, unique prefix of one, or name"`
	Force bool   `query:"force" doc:"also one that is protected"`
}

// ExtendArgs say until when a clone lives.
type ExtendArgs struct {
	ID   string `path:"id" doc:"id, unique prefix of one, or name"`
	Body ExtendRequest
}

// ClientArgs ask for the client of a clone's engine.
type ClientArgs struct {
	ID   string   `path:"id" doc:"id, unique prefix of one, or name"`
	Args []string `query:"arg,explode" doc:"arguments of the client, in order"`
}

// LogsArgs choose lines of a clone's log. The zero Tail chooses none of those that are there.
type LogsArgs struct {
	ID     string `path:"id" doc:"id, unique prefix of one, or name"`
	Tail   int    `query:"tail" default:"-1" minimum:"-1" doc:"how many of the last lines; -1 means all"`
	Follow bool   `query:"follow" doc:"go on with what comes, until the clone ends"`
}

// LeaseArgs name a lease.
type LeaseArgs struct {
	ID string `path:"id"`
}

// SetPoolArgs size the pool of a golden.
type SetPoolArgs struct {
	Golden string `path:"golden" doc:"name of the golden" example:"shop"`
	Body   PoolRequest
}

// AttachArgs attach a clone to a network of the host.
type AttachArgs struct {
	ID   string `path:"id" doc:"id, unique prefix of one, or name"`
	Body AttachRequest
}

// DetachArgs name an interface that was attached.
type DetachArgs struct {
	ID     string `path:"id" doc:"id, unique prefix of one, or name"`
	IfName string `path:"ifname" doc:"name of the interface in the clone"`
}

// EngineArgs name an engine.
type EngineArgs struct {
	Name string `path:"name" example:"mariadb"`
}

// AddEngineArgs describe an engine.
type AddEngineArgs struct{ Body EngineRequest }
