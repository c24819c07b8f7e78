// Package attach gives a namespace that is in use further interfaces on networks
// of the host, and takes them away: what pipework does, by CNI plugins.
//
// An interface on a NIC or bridge of the host is in the host's network, beyond
// all isolation of ours: who may ask for one is the caller's to decide.
package attach

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/locker"
	"github.com/vishvananda/netlink"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/cni"
	"github.com/ctrsnap/ctrsnap/network/netns"
)

// maxTries is how many addresses are asked for; most are free.
const maxTries = 254

// Request is what is asked for.
type Request = network.AttachRequest

// Attachment is what there is.
type Attachment = network.Attachment

// Options configure an Attacher. Dir is required.
type Options struct {
	// Dir holds the records. It is on a filesystem that a reboot empties.
	Dir     string
	BinDirs []string // see [cni.Options]
	Log     *slog.Logger

	// Failpoint, if set, is called before each step of Attach and Detach.
	Failpoint func(step string) error
}

// Attacher attaches and detaches interfaces. It is safe for concurrent use.
// Each has a file, made before anything else and removed after all else, so that
// whatever a crash leaves is found again. Locks: ids (by id), then mu.
type Attacher struct {
	opts    Options
	plugins *cni.Plugins
	ids     *locker.Locker
	mu      sync.Mutex // held while an address is chosen and recorded
	dhcp    sync.Mutex // held while the plugin's daemon is started or ended
}

// Open returns an Attacher that knows what an earlier one with the same Dir did.
func Open(opts Options) (*Attacher, error) {
	if !filepath.IsAbs(opts.Dir) {
		return nil, invalid("directory %q is not an absolute path", opts.Dir)
	}
	if err := os.MkdirAll(filepath.Join(opts.Dir, "records"), 0o700); err != nil {
		return nil, fmt.Errorf("open attachments: %w", err)
	}
	half, err := filepath.Glob(filepath.Join(opts.Dir, "records", "*~")) // an earlier process died while it wrote
	for _, path := range half {
		err = errors.Join(err, os.Remove(path))
	}
	if err != nil {
		return nil, fmt.Errorf("open attachments: %w", err)
	}
	return &Attacher{opts: opts, ids: locker.New(), plugins: cni.NewPlugins(filepath.Join(opts.Dir, "cache"), opts.BinDirs)}, nil
}

// unlock gives the lock of an id back; the error is for locks not taken.
func (a *Attacher) unlock(id string) { _ = a.ids.Unlock(id) }

func (a *Attacher) record(id, ifName string) string {
	return filepath.Join(a.opts.Dir, "records", id+":"+ifName)
}

// Attach gives the namespace at path an interface. An error leaves none behind.
//
// Errors: InvalidArgument for a bad request, NotFound for an interface that the
// host has not, AlreadyExists for an address or a name that is taken,
// NotImplemented for what this kernel or we cannot do, and those of plugins.
func (a *Attacher) Attach(ctx context.Context, id, path string, r Request) (Attachment, error) {
	att, err := a.attach(ctx, id, path, r)
	if err != nil {
		return att, fmt.Errorf("attach %s interface to %s: %w", r.Type, id, err)
	}
	return att, nil
}

func (a *Attacher) attach(ctx context.Context, id, path string, r Request) (_ Attachment, err error) {
	if err := errors.Join(netns.CheckID(id), r.Check()); err != nil {
		return Attachment{}, err
	}
	a.ids.Lock(id)
	defer a.unlock(id)
	att, err := a.plan(ctx, id, path, r)
	if err != nil {
		return att, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.detach(context.WithoutCancel(ctx), att, path))
		}
	}()
	if err := a.step("recorded"); err != nil {
		return att, err
	}
	if att.VLAN != 0 && att.Type == network.Macvlan {
		if err := a.addVLAN(att); err != nil {
			return att, err
		}
	}
	if err := demote(path, att.Gateway); err != nil {
		return att, err
	}
	result, err := a.run(ctx, att, path)
	if err != nil {
		return att, err
	}
	if err := errors.Join(a.step("attached"), ctx.Err()); err != nil {
		return att, err
	}
	for _, i := range result.Interfaces {
		if i.Name == att.IfName && i.Sandbox != "" {
			att.MAC = i.Mac
		}
	}
	if att.DHCP {
		leased(&att, result)
	}
	return att, a.write(att)
}

// plan settles name and address and records them.
func (a *Attacher) plan(ctx context.Context, id, path string, r Request) (Attachment, error) {
	att := Attachment{ID: id, Type: r.Type, Master: r.Master, IP: r.IP, Gateway: r.Gateway, MAC: r.MAC, VLAN: r.VLAN}
	link, err := master(r)
	if err != nil {
		return att, err
	}
	in, err := look(path)
	if err != nil {
		return att, err
	}
	if att.IfName, err = newName(r, in); err != nil {
		return att, err
	}
	have, err := a.List(id)
	if err == nil && len(have) >= network.MaxAttached {
		err = fmt.Errorf("it has %d further interfaces: %w", len(have), errdefs.ErrResourceExhausted)
	}
	if err != nil {
		return att, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.address(&att, r, link); err != nil {
		return att, err
	}
	if err := checkDefault(att, have); err != nil {
		return att, err
	}
	if err := ctx.Err(); err != nil {
		return att, err
	}
	return att, a.write(att)
}

// address checks the wanted address, or chooses one.
func (a *Attacher) address(att *Attachment, r Request, link netlink.Link) error {
	if att.DHCP = r.IP == network.DHCP; att.DHCP {
		att.IP = ""
		_, err := a.dhcpPlugin() // nothing can be undone without it either
		return err
	}
	if r.IP == "" {
		return nil
	}
	all, err := a.all()
	if err != nil {
		return err
	}
	reserved := func(addr netip.Addr) bool {
		return slices.ContainsFunc(all, func(have Attachment) bool { return strings.HasPrefix(have.IP, addr.String()+"/") })
	}
	if r.IP == network.IPAM {
		p, err := choose(r, link, reserved)
		if err != nil {
			return err
		}
		att.IP = p.String()
		r.IP = att.IP
		return r.Check()
	}
	p, err := netip.ParsePrefix(r.IP)
	if err != nil {
		return err
	}
	if reserved(p.Addr()) {
		return fmt.Errorf("address %s is another clone's: %w", p.Addr(), errdefs.ErrAlreadyExists)
	}
	return taken(r, link, p.Addr())
}

// checkDefault refuses a second gateway: the kernel would use either.
func checkDefault(att Attachment, have []Attachment) error {
	for _, other := range have {
		if att.Gateway == "" || other.Gateway == "" || family(att.Gateway) != family(other.Gateway) {
			continue
		}
		return network.WithHint(
			fmt.Errorf("gateway %s: the clone has %s by %s: %w", att.Gateway, other.Gateway, other.IfName, errdefs.ErrFailedPrecondition),
			"leave the gateway away, or detach "+other.IfName)
	}
	return nil
}

func (a *Attacher) write(att Attachment) error {
	doc, err := json.Marshal(att)
	if err != nil {
		return err
	}
	path := a.record(att.ID, att.IfName)
	if err := os.WriteFile(path+"~", doc, 0o600); err != nil {
		return fmt.Errorf("record interface: %w", err)
	}
	return os.Rename(path+"~", path)
}

// List returns what a namespace has, in the order of the names.
func (a *Attacher) List(id string) ([]Attachment, error) {
	return a.read(id)
}

// IDs lists the namespaces that have any.
func (a *Attacher) IDs() ([]string, error) {
	all, err := a.all()
	ids := make([]string, 0, len(all))
	for _, att := range all {
		ids = append(ids, att.ID)
	}
	slices.Sort(ids)
	return slices.Compact(ids), err
}

func (a *Attacher) all() ([]Attachment, error) { return a.read("*") }

// read returns what those have whose ids match a pattern.
func (a *Attacher) read(ids string) ([]Attachment, error) {
	files, err := filepath.Glob(a.record(ids, "*[^~]"))
	if err != nil {
		return nil, err
	}
	var all []Attachment
	for _, f := range files {
		doc, err := os.ReadFile(f)
		if errors.Is(err, os.ErrNotExist) {
			continue // detached meanwhile
		}
		var att Attachment
		if err == nil {
			err = json.Unmarshal(doc, &att)
		}
		if err != nil {
			return nil, fmt.Errorf("read record of interface: %w", err)
		}
		all = append(all, att)
	}
	return all, nil
}

// Detach takes an interface away; path is "" when the namespace is gone. One
// that is not attached is NotFound.
func (a *Attacher) Detach(ctx context.Context, id, path, ifName string) error {
	a.ids.Lock(id)
	defer a.unlock(id)
	have, err := a.List(id)
	if err != nil {
		return err
	}
	for _, att := range have {
		if att.IfName == ifName {
			return a.detach(ctx, att, path)
		}
	}
	return network.WithHint(
		fmt.Errorf("detach interface %.40q of %s: none of that name was attached: %w", ifName, id, errdefs.ErrNotFound), "'ctrsnap net ls' lists the interfaces of a clone")
}

// Forget takes away what a namespace has that is gone, or about to be. It is
// idempotent.
func (a *Attacher) Forget(ctx context.Context, id string) error {
	a.ids.Lock(id)
	defer a.unlock(id)
	have, err := a.List(id)
	for _, att := range have {
		err = errors.Join(err, a.detach(ctx, att, ""))
	}
	return err
}

// Reconcile forgets those whose ids are not in keep.
func (a *Attacher) Reconcile(ctx context.Context, keep []string) error {
	all, err := a.all()
	for _, att := range all {
		if !slices.Contains(keep, att.ID) {
			err = errors.Join(err, a.Forget(ctx, att.ID))
		}
	}
	return err
}

// Teardown forgets all, and removes the records.
func (a *Attacher) Teardown(ctx context.Context) error {
	return errors.Join(a.Reconcile(ctx, nil), a.endDHCP(), os.RemoveAll(a.opts.Dir))
}

func (a *Attacher) detach(ctx context.Context, att Attachment, path string) error {
	conf, err := a.conf(att)
	if err != nil {
		return err
	}
	if err := errors.Join(a.plugins.Del(ctx, conf, forCNI(att, path)), a.step("detached")); err != nil {
		return err
	}
	if err := os.Remove(a.record(att.ID, att.IfName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forget interface: %w", err)
	}
	return errors.Join(a.deleteVLAN(att), a.endDHCP())
}

func (a *Attacher) step(name string) error {
	if a.opts.Failpoint == nil {
		return nil
	}
	return a.opts.Failpoint(name)
}
