// Package named is a network.Provider that gives a namespace the networks that
// it names: the default one, or others, alone or together. Each combination is a
// Provider of its own, made when it is named first.
package named

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/none"
)

const (
	maxNetworks     = 4  // of one namespace
	maxCombinations = 32 // each has namespaces made ahead
)

// nameRE is CNI's grammar of network names, bounded.
var nameRE = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}$`)

// Network is a Provider with what a daemon needs beside.
type Network interface {
	network.Provider
	Reconcile(ctx context.Context, keep []string) error
	Teardown(ctx context.Context) error
	Close() error
}

// Options configure a Provider. All but Log are required.
type Options struct {
	// Dir has a state directory for each combination. It is on a filesystem
	// that a reboot empties.
	Dir string
	// Default is the network of those who name none. It is closed with the
	// Provider.
	Default Network
	// Open opens the Provider of a combination.
	Open func(ctx context.Context, dir string, names []string) (Network, error)
	Log  *slog.Logger // nil means slog.Default()
}

// Provider hands over to the Provider of the networks that are named. It is
// safe for concurrent use.
type Provider struct {
	opts    Options
	opening sync.Mutex // held while a combination is opened; taken before mu

	mu     sync.Mutex
	open   map[string]Network // by names
	owners map[string]Network // of ids that are not the default's
}

var _ Network = (*Provider)(nil)

// Open takes up the combinations of an earlier process with the same Dir. One
// that cannot be opened is logged; its namespaces wait until it can.
func Open(ctx context.Context, opts Options) (*Provider, error) {
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	p := &Provider{opts: opts, open: map[string]Network{}, owners: map[string]Network{}}
	dirs, err := os.ReadDir(opts.Dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("open networks: %w", err)
	}
	for _, d := range dirs {
		names, err := os.ReadFile(filepath.Join(opts.Dir, d.Name(), "names"))
		if err == nil {
			_, err = p.get(ctx, string(names))
		}
		if err != nil {
			opts.Log.ErrorContext(ctx, "open networks of earlier clones", "names", string(names), "error", err)
		}
	}
	return p, nil
}

// Check says with InvalidArgument what is wrong with names, comma-separated.
func Check(names string) error {
	list := strings.Split(names, ",")
	if len(list) > maxNetworks {
		return fmt.Errorf("%d networks are more than %d: %w", len(list), maxNetworks, errdefs.ErrInvalidArgument)
	}
	if len(list) > 1 && slices.Contains(list, none.Name) {
		return fmt.Errorf("network %s is for clones without any other: %w", none.Name, errdefs.ErrInvalidArgument)
	}
	for i, name := range list {
		if !nameRE.MatchString(name) {
			return fmt.Errorf("invalid network name %.80q: %w", name, errdefs.ErrInvalidArgument)
		}
		if slices.Contains(list[:i], name) {
			return fmt.Errorf("network %s is named twice: %w", name, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// get returns the Provider of a combination, and opens it at first use.
func (p *Provider) get(ctx context.Context, names string) (Network, error) {
	if n := p.known(names); n != nil {
		return n, nil
	}
	if err := Check(names); err != nil {
		return nil, err
	}
	p.opening.Lock()
	defer p.opening.Unlock()
	if n := p.known(names); n != nil {
		return n, nil
	}
	if len(p.all()) > maxCombinations {
		return nil, network.WithHint(
			fmt.Errorf("%d combinations of networks are in use: %w", maxCombinations, errdefs.ErrResourceExhausted),
			"name networks in the same order")
	}
	n, err := p.make(ctx, names)
	if err != nil {
		return nil, err
	}
	ids, err := n.Namespaces(ctx)
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open[names] = n
	for _, id := range ids {
		p.owners[id] = n
	}
	return n, nil
}

func (p *Provider) known(names string) Network {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open[names]
}

// make opens a combination. The file "names" comes last: a directory without
// it has had no namespace.
func (p *Provider) make(ctx context.Context, names string) (Network, error) {
	sum := sha256.Sum256([]byte(names))
	dir := filepath.Join(p.opts.Dir, hex.EncodeToString(sum[:4]))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	n, err := p.opts.Open(ctx, dir, strings.Split(names, ","))
	if err != nil {
		if _, statErr := os.Stat(filepath.Join(dir, "names")); errors.Is(statErr, os.ErrNotExist) {
			err = errors.Join(err, os.RemoveAll(dir))
		}
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "names"), []byte(names), 0o600); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// owner returns the Provider that has id.
func (p *Provider) owner(id string) Network {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := p.owners[id]; n != nil {
		return n
	}
	return p.opts.Default
}

func (p *Provider) all() []Network {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := []Network{p.opts.Default}
	for _, n := range p.open {
		list = append(list, n)
	}
	return list
}

// Add implements network.Provider. An unknown network is NotFound.
func (p *Provider) Add(ctx context.Context, id string, opts network.Options) (network.Namespace, error) {
	names := opts.Networks
	opts.Networks = ""
	if names == "" {
		return p.opts.Default.Add(ctx, id, opts)
	}
	n, err := p.get(ctx, names)
	if err != nil {
		return network.Namespace{}, err
	}
	ids, err := p.opts.Default.Namespaces(ctx)
	if err == nil && slices.Contains(ids, id) {
		err = fmt.Errorf("add network namespace %s: %w", id, errdefs.ErrAlreadyExists)
	}
	if err != nil {
		return network.Namespace{}, err
	}
	p.mu.Lock()
	if other := p.owners[id]; other != nil && other != n {
		p.mu.Unlock()
		return network.Namespace{}, fmt.Errorf("add network namespace %s: %w", id, errdefs.ErrAlreadyExists)
	}
	p.owners[id] = n // first: a Remove beside this one is to find it
	p.mu.Unlock()
	return n.Add(ctx, id, opts)
}

// Assign implements network.Provider.
func (p *Provider) Assign(ctx context.Context, id string, opts network.Options) error {
	opts.Networks = ""
	return p.owner(id).Assign(ctx, id, opts)
}

// Remove implements network.Provider.
func (p *Provider) Remove(ctx context.Context, id string) error {
	n := p.owner(id)
	if err := n.Remove(ctx, id); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.owners, id)
	return nil
}

// Namespaces implements network.Provider.
func (p *Provider) Namespaces(ctx context.Context) ([]string, error) {
	var all []string
	for _, n := range p.all() {
		ids, err := n.Namespaces(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, ids...)
	}
	return all, nil
}

// Reconcile has all Providers free what they have of ids without a namespace.
func (p *Provider) Reconcile(ctx context.Context, keep []string) error {
	return p.each(func(n Network) error { return n.Reconcile(ctx, keep) })
}

// Loose returns the ids of which any Provider has something but no namespace.
func (p *Provider) Loose(ctx context.Context) ([]string, error) {
	var all []string
	err := p.each(func(n Network) error {
		inner, ok := n.(interface {
			Loose(ctx context.Context) ([]string, error)
		})
		if !ok {
			return nil
		}
		ids, err := inner.Loose(ctx)
		all = append(all, ids...)
		return err
	})
	return all, err
}

// Teardown removes all state. While namespaces exist it fails with
// FailedPrecondition.
func (p *Provider) Teardown(ctx context.Context) error {
	if err := p.each(func(n Network) error { return n.Teardown(ctx) }); err != nil {
		return err
	}
	return os.RemoveAll(p.opts.Dir)
}

// Close closes all Providers. It is idempotent.
func (p *Provider) Close() error { return p.each(Network.Close) }

func (p *Provider) each(do func(Network) error) error {
	var errs []error
	for _, n := range p.all() {
		errs = append(errs, do(n))
	}
	return errors.Join(errs...)
}

// String says what clones are attached to, for people.
func (p *Provider) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := fmt.Sprint(p.opts.Default)
	for _, n := range p.open {
		s += "; " + fmt.Sprint(n)
	}
	return s
}
