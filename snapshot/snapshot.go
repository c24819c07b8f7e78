// Package snapshot is the contract of everything that is stored: goldens,
// the bases that they are built on, and the copy-on-write snapshots of clones.
//
// A golden is an immutable database that was cleanly shut down. It is stored
// as a committed containerd snapshot and recorded as a containerd image
// ("shop:3", and "shop:current", which moves). A clone's snapshot is a
// writable child of a golden's.
//
// The packages below implement the contract: storage holds the filesystem,
// overlay the snapshotter, checkpoint the metadata that survives power loss,
// base the root filesystems that builds start on, golden the Store.
package snapshot

import (
	"context"
	"encoding/json"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
)

// Namespace is the containerd namespace that holds all of ctrsnap's records.
const Namespace = "ctrsnap"

// LabelKind is the label of what ctrsnap leaves in containerd: its value is the kind. Snapshots and containers of clones
// are of KindClone, those of builds of KindBuild; other kinds are of one package alone.
const (
	LabelKind = "ctrsnap.io/kind"
	KindClone = "clone"
	KindBuild = "build"
)

// Snapshotter is the name of the containerd snapshotter that ctrsnap uses,
// in its own containerd and in one that the host runs.
const Snapshotter = "overlayfs"

// Golden is the record of one version of a golden. It is immutable once
// [Build.Commit] returned it.
type Golden struct {
	Name    string `json:"name"`
	Version int    `json:"version"` // 1, 2, 3 …, assigned by Commit, never used twice while a later one is kept
	Description

	// Key is the digest of the files that the golden was built from, as the
	// builder chose them (--key), or "".
	Key string `json:"key,omitempty"`
	// KeyParts are digests of all else that made it, by what they are of. A golden of a release that had no parts has
	// none: no key finds it.
	KeyParts map[string]string `json:"key_parts,omitempty"`
	Parent   string            `json:"parent,omitempty"` // "base:2" where it was built on another golden
	Sources  []Source          `json:"sources,omitempty"`
	Builder  string            `json:"builder,omitempty"` // who built it: user name or uid
	// BuildSeconds is how long the build took, from request to record.
	BuildSeconds float64 `json:"build_seconds,omitempty"`

	Snapshot string `json:"snapshot"` // key of the committed snapshot
	Size     int64  `json:"size"`     // bytes of the golden's own layer
	// Current says whether NAME without a version means this one. It is read
	// from the moving record, not stored.
	Current bool `json:"-"`
	// Access is of all versions of the name: read like Current, and given to Commit for
	// a name that is new.
	Access Access `json:"-"`
	// DamagedAt says when the layer, or one below it, was found not to be what was built;
	// zero is never, or not any more. It is read from the record.
	DamagedAt time.Time `json:"-"`
}

// Description is what a host has to know of a golden, beside its files, to serve clones of it: the part that is the same
// on every host. All else of a Golden is this host's alone: what it is called here, where it lies, how it came to be, who
// may do what with it, and how it is used.
type Description struct {
	// Engine is the name of the engine that serves clones ("postgres").
	Engine        string `json:"engine"`
	EngineVersion string `json:"engine_version,omitempty"` // the server's own, "15.18"
	// State is the engine's own description of the database: where it lies in
	// the root filesystem and how to log in. It holds secrets.
	State json.RawMessage `json:"state,omitempty"`
	// Settings are the server's, given with the build: each clone has them,
	// unless it was asked for with others.
	Settings map[string]string `json:"settings,omitempty"`
	// Warnings say what of its sources is not in the golden, or is otherwise.
	Warnings []string `json:"warnings,omitempty"`
	// Hot are small files, by their path, that the server of each clone opens for
	// writing and reads at once.
	Hot     []string  `json:"hot,omitempty"`
	Base    Base      `json:"base"` // its Snapshot alone is this host's
	Created time.Time `json:"created"`
	// Digest is a digest of the layer: names, modes, owners, sizes and
	// content of its files. It says whether a golden is still what was built.
	Digest string `json:"digest,omitempty"`
}

// Ref returns the golden's full name, "shop:3".
func (g Golden) Ref() Ref { return Ref{Name: g.Name, Version: g.Version} }

// Source is one thing that a golden was built from.
type Source struct {
	Kind   string `json:"kind"` // init, dump, url, dir, exec, mask
	Name   string `json:"name"` // file name, command, or URL without its password
	Digest string `json:"digest,omitempty"`
	Size   int64  `json:"size,omitempty"` // bytes
}

// Base is the root filesystem that a build starts on.
type Base struct {
	Kind   string `json:"kind"`             // host, image, archive, golden
	Ref    string `json:"ref"`              // image reference, archive name, host program version, golden name
	Digest string `json:"digest,omitempty"` // of the image's manifest, or of the host's files
	// Snapshot is the key of the committed snapshot.
	Snapshot string `json:"snapshot"`
	// Config is what the image says about running it; zero for a host base.
	Config ImageConfig `json:"config"`
}

// ImageConfig is the part of an OCI image configuration that builds use.
// See https://github.com/opencontainers/image-spec/blob/v1.1.1/config.md.
type ImageConfig struct {
	Env        []string `json:"env,omitempty"`
	Entrypoint []string `json:"entrypoint,omitempty"`
	Cmd        []string `json:"cmd,omitempty"`
	WorkingDir string   `json:"working_dir,omitempty"`
	User       string   `json:"user,omitempty"`
	StopSignal string   `json:"stop_signal,omitempty"`
}

// Store keeps goldens and hands out the writable snapshots of clones.
// It is safe for concurrent use. Errors are of containerd/errdefs classes:
// NotFound, AlreadyExists, InvalidArgument, FailedPrecondition (in use).
type Store interface {
	// Begin opens a golden build on top of the committed snapshot parent.
	// The caller must Close it.
	Begin(ctx context.Context, id, parent string) (Build, error)
	// Golden returns one golden; a Ref with version 0 means the current one.
	Golden(ctx context.Context, ref Ref) (Golden, error)
	// Goldens returns all goldens, by name, then version ascending.
	Goldens(ctx context.Context) ([]Golden, error)
	// Promote makes ref the current version of its name, atomically and
	// durably.
	Promote(ctx context.Context, ref Ref) error
	// SetAccess says who may do what with all versions of a name, durably.
	SetAccess(ctx context.Context, name string, a Access) error
	// VerifyDigest reads the whole golden from the disk and compares it with its
	// digest. A golden that is not what was built is DataLoss: it is marked, with
	// those that are built on it, and not cloned until it is verified well.
	VerifyDigest(ctx context.Context, ref Ref) error
	// RemoveGolden removes one version, or with version 0 all of them. It is
	// refused with FailedPrecondition, naming the dependants, while clones or
	// other goldens stand on it.
	RemoveGolden(ctx context.Context, ref Ref) error

	// Prepare makes the writable snapshot of clone id and returns its mounts,
	// which are volatile: nothing written there survives the machine. A golden
	// that is marked as damaged is DataLoss.
	Prepare(ctx context.Context, id string, g Golden) ([]mount.Mount, error)
	// Remove removes the snapshot of clone id. It is idempotent. The caller
	// has unmounted it.
	Remove(ctx context.Context, id string) error
	// Clones returns the ids of all clone snapshots that exist.
	Clones(ctx context.Context) ([]string, error)
	// Usage returns the bytes of disk that clone id holds alone: extents that
	// it shares with its golden do not count.
	Usage(ctx context.Context, id string) (int64, error)
}

// Build is a golden under construction.
type Build interface {
	// Mounts returns the mounts of the root filesystem under construction.
	// They are not volatile. Any number of mounts may follow one another, but
	// only one at a time.
	Mounts() []mount.Mount
	// Commit syncs the snapshot, records it as the next version of g.Name,
	// makes that version current, and checkpoints the metadata, in that
	// order. When it returns nil, the golden survives power loss; when it
	// returns an error, nothing of it is left after Close.
	Commit(ctx context.Context, g Golden) (Golden, error)
	// Close discards what was not committed. It is idempotent.
	Close(ctx context.Context) error
}
