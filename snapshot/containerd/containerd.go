// Package containerd gives ctrsnap its containerd: one that runs in this process
// (Start), or one that the host runs already (Connect). Both are the same Server
// to whoever uses them.
package containerd

import (
	"context"
	"errors"
	"fmt"
	"net"
	goruntime "runtime"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/sandbox"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/overlay"
)

// connectTimeout is how long Connect waits for an answer.
const connectTimeout = 3 * time.Second

// Server is a containerd in use. It is safe for concurrent use.
type Server struct {
	client  *client.Client
	version string
	address string
	// embedded is nil for a containerd that the host runs.
	embedded *embedded
}

// Client returns the client, whose default namespace is [snapshot.Namespace]. It
// works until Stop.
func (s *Server) Client() *client.Client { return s.client }

// Embedded says whether containerd runs in this process.
func (s *Server) Embedded() bool { return s.embedded != nil }

// Version returns containerd's version, "2.4.2".
func (s *Server) Version() string { return s.version }

// Address returns the path of containerd's gRPC socket.
func (s *Server) Address() string { return s.address }

// Sandboxes returns containerd's controller of sandboxes that are shims.
func (s *Server) Sandboxes() sandbox.Controller {
	if s.embedded == nil {
		return s.client.SandboxController(sandboxer)
	}
	return s.embedded.sandboxes
}

// Databases returns the metadata of an embedded containerd, for checkpoints; nil
// for one that the host runs. They are closed by Stop.
func (s *Server) Databases() (*metadata.DB, *overlay.Snapshotter) {
	if s.embedded == nil {
		return nil, nil
	}
	return s.embedded.metadata, s.embedded.snapshotter
}

// SnapshotRoot returns the directory in which the snapshotter keeps layers.
func (s *Server) SnapshotRoot(ctx context.Context) (string, error) {
	ctx = namespaces.WithNamespace(ctx, snapshot.Namespace)
	r, err := s.client.IntrospectionService().Plugins(ctx,
		fmt.Sprintf("type==%s,id==%s", plugins.SnapshotPlugin, snapshot.Snapshotter))
	if err != nil {
		return "", fmt.Errorf("ask containerd for its snapshotter: %w", err)
	}
	for _, p := range r.GetPlugins() {
		if root := p.GetExports()[plugins.SnapshotterRootDir]; root != "" {
			return root, nil
		}
	}
	return "", fmt.Errorf("containerd does not say where snapshotter %s keeps its layers: %w", snapshot.Snapshotter, errdefs.ErrNotFound)
}

// Connect uses the containerd that the host runs at address, a socket path with
// or without "unix://". The error is of class Unavailable, with a hint, if
// nothing answers there, and FailedPrecondition if it cannot do what ctrsnap
// needs.
func Connect(ctx context.Context, address string) (*Server, error) {
	path := trimScheme(address)
	c, err := client.New(path, client.WithDefaultNamespace(snapshot.Namespace), client.WithTimeout(connectTimeout))
	if err != nil {
		return nil, fmt.Errorf("connect to containerd at %s: %w", address, err)
	}
	v, err := probe(ctx, path, c)
	if err != nil {
		return nil, fmt.Errorf("connect to containerd at %s: %w", address, errors.Join(err, c.Close()))
	}
	return &Server{client: c, version: v, address: path}, nil
}

// probe asks containerd for its version and for our snapshotter.
func probe(ctx context.Context, path string, c *client.Client) (string, error) {
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(ctx, snapshot.Namespace), connectTimeout)
	defer cancel()
	v, err := askVersion(ctx, path, c)
	if err != nil {
		return "", snapshot.WithHint(fmt.Errorf("%w: %w", errdefs.ErrUnavailable, err),
			"is containerd running there? without --containerd, ctrsnapd runs its own")
	}
	if _, err = c.SnapshotService(snapshot.Snapshotter).Stat(ctx, "ctrsnap-probe"); err != nil && !errdefs.IsNotFound(err) {
		return "", snapshot.WithHint(
			fmt.Errorf("use snapshotter %s: %w: %w", snapshot.Snapshotter, errdefs.ErrFailedPrecondition, err),
			"`ctr plugins ls` shows why containerd did not load it")
	}
	return v, nil
}

// askVersion dials first, because gRPC tries again until ctx ends where nobody
// listens.
func askVersion(ctx context.Context, path string, c *client.Client) (string, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return "", err
	}
	conn.Close()
	v, err := c.Version(ctx)
	return v.Version, err
}

// Stop ends an embedded containerd: its databases are closed and its sockets are
// gone when Stop returns, while shims and what they run go on. Of one that the
// host runs, it closes the connection. Stop is idempotent.
func (s *Server) Stop(ctx context.Context) error {
	if s.embedded == nil {
		return s.client.Close()
	}
	// Its content store opens a file and does not close it (fsverity.Enable, as of
	// 2.4.2): until that is collected, the filesystem cannot be unmounted.
	defer goruntime.GC()
	return s.embedded.stop(ctx)
}
