// Package postgres is the engine for PostgreSQL 12 and later.
//
// It finds the server's programs on the host or in an image, makes goldens
// from scripts, dumps, live databases and data directories, and says how a
// clone's server is started, watched and reached. DESIGN.md tells why.
package postgres

import (
	"github.com/ctrsnap/ctrsnap/runtime"
)

// Name is the engine's name in goldens and requests.
const Name = "postgres"

const (
	// port is where every server listens: each has an address of its own.
	port = 5432
	// hbaFile holds ctrsnap's own rules of who may connect, see DESIGN.md.
	hbaFile = "/ctrsnap/pg_hba.conf"
	// confFile is the configuration file of clones, certFile and keyFile are for those that encrypt.
	confFile = "/ctrsnap/postgresql.conf"
	certFile = "/ctrsnap/server.crt"
	keyFile  = "/ctrsnap/server.key"
	// loginRole is the role that clones are handed out with where the
	// passwords of the golden's own roles are not known.
	loginRole = "ctrsnap"
	// minMajor and maxMajor bound the versions that were looked at.
	minMajor, maxMajor = 12, 18
)

// Engine implements [runtime.Engine]. It holds no state.
type Engine struct{}

var _ runtime.Engine = (*Engine)(nil)

// New returns the engine.
func New() *Engine { return &Engine{} }

// Name returns "postgres".
func (*Engine) Name() string { return Name }
