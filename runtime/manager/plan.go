package manager

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/publish"
	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/lease"
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

// checkSettings bounds what goes into the server's command line; the engine
// says which of them there can be.
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

// hintMissing tells what to do about a golden that is not there, if nobody
// else did.
func hintMissing(err error) error {
	var h interface{ Hint() string }
	if !errdefs.IsNotFound(err) || errors.As(err, &h) {
		return err
	}
	return snapshot.WithHint(err, "'ctrsnap golden ls' lists the goldens, 'ctrsnap golden build' makes one")
}
