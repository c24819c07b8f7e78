package manager

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/none"
	"github.com/ctrsnap/ctrsnap/network/publish"
	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/lease"
	"github.com/ctrsnap/ctrsnap/runtime/quota"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

const (
	maxCount     = 1000
	maxLabels    = 64
	maxLabelSize = 1024 // bytes of key and value

	maxSettings    = 100
	maxSettingSize = 4 << 10 // bytes of name and value
)

// plan is a checked request.
type plan struct {
	caller      access.Caller
	golden      snapshot.Golden
	engine      runtime.Engine
	process     runtime.Process
	count       int
	names       []string // none, or count
	ifExists    api.IfExists
	ttl         time.Duration // 0: they live by the lease alone
	labels      map[string]string
	settings    map[string]string
	ownPassword bool
	lease       lease.Lease
	wait        time.Duration // for one's turn; 0 without end
	limits      api.Limits
	idle        time.Duration // 0 is without end
	protect     bool
	member      bool   // of the pool: nobody's yet
	peers       string // names those that reach each other: the lease, or the clones of the request; "" is each by itself
	egress      bool
	addr        netip.Addr // wanted; zero is any
	publish     []publish.Address
	attach      []network.AttachRequest
	networks    string // names, comma-separated; "" is the default one
}

func (p *plan) name(i int) string {
	if len(p.names) == 0 {
		return ""
	}
	return p.names[i]
}

// keys are what the names are locked by.
func (p *plan) keys() []string {
	keys := make([]string, len(p.names))
	for i, name := range p.names {
		keys[i] = fmt.Sprintf("%d/%s", p.caller.UID(), name)
	}
	return keys
}

// planner checks requests.
type planner struct {
	opts      *Options
	leases    *lease.Book
	passwords *passwords
}

// plan checks a request; whatever is wrong with it is an error before anything is made.
func (l *planner) plan(ctx context.Context, caller access.Caller, req api.CloneRequest) (*plan, error) {
	p := &plan{caller: caller, count: max(req.Count, 1), ifExists: req.IfExists, labels: req.Labels, settings: req.Settings, ownPassword: req.OwnPassword, wait: time.Duration(req.WaitTimeout)}
	if req.Count < 0 || req.Count > maxCount {
		return nil, fmt.Errorf("count %d is not within 1 and %d: %w", req.Count, maxCount, errdefs.ErrInvalidArgument)
	}
	if err := caller.CheckIsolated("clone", l.opts.Runner.Isolation()); err != nil {
		return nil, err
	}
	if p.wait < 0 {
		return nil, fmt.Errorf("negative wait_timeout %s: %w", p.wait, errdefs.ErrInvalidArgument)
	}
	for _, check := range []func(api.CloneRequest) error{p.setNames, checkLabels, checkSettings, l.lifetime(p), l.bounds(p), l.reach(p), l.ports(p), l.interfaces(p)} {
		if err := check(req); err != nil {
			return nil, err
		}
	}
	return p, l.resolve(ctx, p, req)
}

func (p *plan) setNames(req api.CloneRequest) error {
	switch p.ifExists {
	case "":
		p.ifExists = api.IfExistsFail
	case api.IfExistsFail, api.IfExistsReuse, api.IfExistsReset:
	default:
		return fmt.Errorf("unknown if_exists %q: want fail, reuse or reset: %w", p.ifExists, errdefs.ErrInvalidArgument)
	}
	if req.Name == "" {
		return nil
	}
	if p.count == 1 {
		p.names = []string{req.Name}
	} else {
		for i := range p.count {
			p.names = append(p.names, fmt.Sprintf("%s-%d", req.Name, i+1))
		}
	}
	return snapshot.ValidateName(p.names[len(p.names)-1])
}

func checkLabels(req api.CloneRequest) error {
	if len(req.Labels) > maxLabels {
		return fmt.Errorf("%d labels are more than %d: %w", len(req.Labels), maxLabels, errdefs.ErrInvalidArgument)
	}
	for k, v := range req.Labels {
		if k == "" || strings.Contains(k, "=") || len(k)+len(v) > maxLabelSize {
			return fmt.Errorf("invalid label %.64q: want a key without '=' and at most %d bytes: %w", k, maxLabelSize, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// checkSettings bounds what goes into the server's command line; the engine says which of them there can be.
func checkSettings(req api.CloneRequest) error {
	if len(req.Settings) > maxSettings {
		return fmt.Errorf("%d settings are more than %d: %w", len(req.Settings), maxSettings, errdefs.ErrInvalidArgument)
	}
	for k, v := range req.Settings {
		if k == "" || len(k)+len(v) > maxSettingSize {
			return fmt.Errorf("invalid setting %.64q: want a name and at most %d bytes: %w", k, maxSettingSize, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// lifetime says what the clones live by: a lease, a TTL, or whichever ends first.
func (l *planner) lifetime(p *plan) func(api.CloneRequest) error {
	return func(req api.CloneRequest) error {
		switch {
		case req.LeaseID != "":
			p.lease.ID = req.LeaseID
		case req.Lease == api.LeaseConnection:
			p.lease = newLease(nil)
		case req.Lease == api.LeasePID, req.Lease == api.LeaseCgroup:
			holder, err := l.leases.Find(p.caller, string(req.Lease), req.LeaseHolder)
			if err != nil {
				return err
			}
			p.lease = newLease(holder)
		case req.Lease != "" && req.Lease != api.LeaseTTL:
			return fmt.Errorf("unknown lease %q: want ttl, connection, pid or cgroup: %w", req.Lease, errdefs.ErrInvalidArgument)
		}
		p.ttl = time.Duration(req.TTL)
		if p.ttl == 0 && p.lease.ID == "" {
			p.ttl = l.opts.DefaultTTL
		}
		return l.checkTTL(p.ttl)
	}
}

func newLease(by lease.Holder) lease.Lease {
	return lease.Lease{ID: "l" + strings.ToLower(rand.Text()), New: true, Holder: by}
}

func (l *planner) checkTTL(ttl time.Duration) error {
	if ttl < 0 {
		return fmt.Errorf("negative ttl %s: %w", ttl, errdefs.ErrInvalidArgument)
	}
	if ttl > l.opts.MaxTTL {
		return snapshot.WithHint(
			fmt.Errorf("ttl %s is above this server's maximum of %s: %w", ttl, l.opts.MaxTTL, errdefs.ErrInvalidArgument),
			fmt.Sprintf("ask for at most %s and extend later", l.opts.MaxTTL))
	}
	return nil
}

// resolve finds the golden, its engine, and what is to run.
func (l *planner) resolve(ctx context.Context, p *plan, req api.CloneRequest) error {
	ref, err := snapshot.ParseRef(req.Golden)
	if err != nil {
		return err
	}
	p.golden, err = l.opts.Store.Golden(ctx, ref)
	if err == nil && !p.caller.MayRead(p.golden) {
		err = snapshot.NoGolden(ref)
	}
	if err == nil {
		err = p.golden.Damaged()
	}
	if err != nil {
		return hintMissing(fmt.Errorf("find golden %s: %w", ref, err))
	}
	engine, err := l.opts.Engines.Engine(p.golden.Engine)
	if err != nil {
		return fmt.Errorf("golden %s is of engine %q, which this daemon lacks: %w", ref, p.golden.Engine, errdefs.ErrFailedPrecondition)
	}
	p.engine = engine
	if err := l.checkPassword(p); err != nil {
		return err
	}
	if _, err := connectionLimit(engine, req.Limits.Connections); err != nil {
		return err
	}
	p.process, err = engine.Server(p.golden, serverSettings(engine, req.Settings, p.limits))
	if err != nil {
		return fmt.Errorf("set up server of golden %s: %w", ref, err)
	}
	return nil
}

// hintMissing tells what to do about a golden that is not there, if nobody else did.
func hintMissing(err error) error {
	var h interface{ Hint() string }
	if !errdefs.IsNotFound(err) || errors.As(err, &h) {
		return err
	}
	return snapshot.WithHint(err, "'ctrsnap golden ls' lists the goldens, 'ctrsnap golden build' makes one")
}

// Limits bound what clones take. The zero value bounds nothing.
type Limits struct {
	Clone api.Limits   // of a clone that is asked for with none
	Most  api.Limits   // that can be asked for, but by administrators
	User  quota.Bounds // of each user but administrators
	All   quota.Bounds // of all together
}

// What no server runs below.
const (
	minMemory = 32 << 20
	minCPUs   = 0.01
	minPids   = 16
)

// bounds checks what is asked for about limits and the end of life.
func (l *planner) bounds(p *plan) func(api.CloneRequest) error {
	return func(req api.CloneRequest) error {
		have, def, most := &p.limits, l.opts.Limits.Clone, l.opts.Limits.Most
		if p.caller.IsAdmin() {
			most = api.Limits{}
		}
		*have = req.Limits
		p.protect, p.idle = req.Protect, time.Duration(req.IdleTTL)
		for _, err := range []error{
			bound("memory", mebibytes, &have.MemoryBytes, minMemory, def.MemoryBytes, most.MemoryBytes),
			bound("cpus", number, &have.CPUs, minCPUs, def.CPUs, most.CPUs),
			bound("pids", number, &have.Pids, minPids, def.Pids, most.Pids),
			bound("disk", mebibytes, &have.DiskBytes, 0, def.DiskBytes, most.DiskBytes),
			bound("connections", number, &have.Connections, 0, def.Connections, most.Connections),
		} {
			if err != nil {
				return err
			}
		}
		return l.checkTTL(p.idle)
	}
}

// bound gives a limit its default, and holds it to the least that a server runs with and to the most that may be asked
// for; 0 is no bound.
func bound[N int | int64 | float64](what string, text func(N) string, have *N, least, def, most N) error {
	if *have < 0 {
		return fmt.Errorf("negative limit of %s: %w", what, errdefs.ErrInvalidArgument)
	}
	if *have == 0 {
		*have = def
		if most > 0 && (def == 0 || def > most) {
			*have = most
		}
	}
	if most > 0 && *have > most {
		return snapshot.WithHint(
			fmt.Errorf("limit of %s %s is above this server's maximum of %s: %w", what, text(*have), text(most), errdefs.ErrInvalidArgument),
			"ask for less, or have clone.max raised")
	}
	if *have > 0 && *have < least {
		return snapshot.WithHint(
			fmt.Errorf("limit of %s %s is too low for a server: %w", what, text(*have), errdefs.ErrInvalidArgument),
			"ask for "+text(least)+" at least")
	}
	return nil
}

func number[N int | int64 | float64](n N) string { return fmt.Sprint(n) }

// mebibytes prints bytes as people and flags write them.
func mebibytes(n int64) string {
	if n%(1<<20) != 0 {
		return fmt.Sprintf("%dB", n)
	}
	return fmt.Sprintf("%dMiB", n>>20)
}

// serverSettings are the settings that a server is started with: those that were asked for, and over them what limits
// it. The daemon's own limit does not hold a server that cannot have it.
func serverSettings(e runtime.Engine, settings map[string]string, l api.Limits) map[string]string {
	limit, err := connectionLimit(e, l.Connections)
	if err != nil || len(limit) == 0 {
		return settings
	}
	all := maps.Clone(settings)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, limit)
	return all
}

// connectionLimit returns the settings of a server that takes n connections, 0 is any number.
func connectionLimit(e runtime.Engine, n int) (map[string]string, error) {
	if n == 0 {
		return nil, nil
	}
	limiter, ok := e.(runtime.ConnectionLimiter)
	if !ok {
		return nil, fmt.Errorf("engine %s has no limit of connections: %w", e.Name(), errdefs.ErrInvalidArgument)
	}
	return limiter.LimitConnections(n)
}

// hostLimits are those that the kernel holds.
func hostLimits(l api.Limits) runtime.Limits {
	return runtime.Limits{Memory: l.MemoryBytes, CPUs: l.CPUs, Pids: l.Pids}
}

// reach says who reaches the clones and what they reach. It is to come after lifetime, which knows the lease.
func (l *planner) reach(p *plan) func(api.CloneRequest) error {
	return func(req api.CloneRequest) (err error) {
		p.networks = strings.Join(req.Networks, ",")
		p.egress = l.opts.Egress && p.networks != none.Name
		if req.Egress != nil {
			p.egress = *req.Egress
		}
		p.peers = p.lease.ID
		if p.peers == "" && p.count > 1 {
			p.peers = "r" + strings.ToLower(rand.Text())
		}
		if req.IP == "" {
			return nil
		}
		p.addr, err = netip.ParseAddr(req.IP)
		if err != nil || !p.addr.Is4() {
			return fmt.Errorf("invalid ip %.64q: want an IPv4 address as in 10.213.0.77: %w", req.IP, errdefs.ErrInvalidArgument)
		}
		if p.count > 1 {
			return fmt.Errorf("ip %s is for one clone, not for %d: %w", p.addr, p.count, errdefs.ErrInvalidArgument)
		}
		return nil
	}
}

// network returns what a clone's network is to be like.
func (p *plan) network() network.Options {
	return network.Options{Lease: p.peers, Egress: p.egress, Addr: p.addr, Networks: p.networks}
}
