package cni

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/network/flannel"
	"github.com/ctrsnap/ctrsnap/network/netns"
)

// sharedDir is where host-local keeps reservations unless told otherwise.
const sharedDir = "/var/lib/cni/networks"

// containerID is what plugins know a namespace by. In a shared network it says
// whose it is, also after a reboot.
func (n *Network) containerID(c Conf, id string) string {
	if !c.Shared {
		return id
	}
	return n.tag() + id
}

func (n *Network) tag() string {
	return fmt.Sprintf("ctrsnap-%08x-", crc32.ChecksumIEEE([]byte(n.opts.StateDir)))
}

// collect runs GC: at the start, when nothing is attached beside it. What an
// Add has just recorded would be garbage to it.
func (n *Network) collect(ctx context.Context) error {
	ids, err := n.Namespaces(ctx)
	if err != nil {
		return err
	}
	for i, c := range n.confs {
		var valid []Attachment
		for _, id := range ids {
			valid = append(valid, n.attachment(i, id, ""))
		}
		if err := n.plugins.Collect(ctx, c, valid); err != nil {
			n.opts.Log.WarnContext(ctx, "collect garbage of network", "network", c.Name, "error", err)
		}
	}
	return nil
}

// Reconcile frees the addresses and records of ids that have no namespace any
// more and are not in keep. Namespaces themselves are not touched: who owns
// them finds them with Namespaces. keep is for an id whose processes still use
// a namespace that lost its name. It can run at any time, beside Add and Remove.
func (n *Network) Reconcile(ctx context.Context, keep []string) error {
	// In this order: a namespace is made before its records and deleted after.
	known, err := n.recorded()
	if err != nil {
		return fmt.Errorf("reconcile network: %w", err)
	}
	live, err := n.Namespaces(ctx)
	if err != nil {
		return fmt.Errorf("reconcile network: %w", err)
	}
	var errs []error
	for _, id := range known {
		if slices.Contains(live, id) || slices.Contains(keep, id) {
			continue
		}
		errs = append(errs, n.free(ctx, id))
	}
	return errors.Join(append(errs, n.deleteBridges(n.currentBridge()))...)
}

// Loose returns the ids that have addresses or records but no namespace any more.
func (n *Network) Loose(ctx context.Context) ([]string, error) {
	known, err := n.recorded() // before the namespaces: see Reconcile
	if err != nil {
		return nil, err
	}
	live, err := n.Namespaces(ctx)
	return slices.DeleteFunc(known, func(id string) bool { return slices.Contains(live, id) }), err
}

// currentBridge names the bridge of the built-in flannel network.
func (n *Network) currentBridge() string {
	for _, c := range n.confs {
		for _, l := range c.leases {
			if env, err := l.Current(); err == nil && c.list == nil {
				return flannelBridge(env)
			}
		}
	}
	return ""
}

// free detaches an id unless an Add has come in between.
func (n *Network) free(ctx context.Context, id string) error {
	n.ids.Lock(id)
	defer n.unlock(id)
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := os.Lstat(n.dir("netns", id)); err == nil {
		return nil
	}
	return n.detachAll(ctx, id, "")
}

// recorded lists the ids that libcni or plugins have records of.
func (n *Network) recorded() ([]string, error) {
	kept, err := n.plugins.attachments("")
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, a := range kept {
		ids = append(ids, strings.TrimPrefix(a.ContainerID, n.tag()))
	}
	for _, c := range n.confs {
		for _, dir := range c.records() {
			for _, id := range containersIn(dir) {
				if id, mine := strings.CutPrefix(id, n.tag()); mine || !c.Shared {
					ids = append(ids, id)
				}
			}
		}
	}
	ids = slices.DeleteFunc(ids, func(id string) bool { return netns.CheckID(id) != nil })
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// records lists the directories where a network's plugins have a file for each
// container, or for each of its addresses.
func (c Conf) records() []string {
	if !c.Shared {
		return []string{filepath.Join(c.dataDir, "ipam", c.Name), filepath.Join(c.dataDir, "flannel")}
	}
	return []string{filepath.Join(sharedDir, c.Name), flannel.DefaultDataDir}
}

// containersIn reads the records in a directory: host-local has files named by
// address whose first line is the container, flannel files named by it.
func containersIn(dir string) (ids []string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // none yet
	}
	for _, e := range entries {
		id := e.Name()
		if _, err := netip.ParseAddr(id); err == nil {
			b, err := os.ReadFile(filepath.Join(dir, id))
			if err != nil {
				continue // released meanwhile
			}
			id, _, _ = strings.Cut(string(b), "\r\n")
		} else if strings.ContainsAny(id, "._") || id == "lock" {
			continue
		}
		ids = append(ids, id)
	}
	return ids
}

// Teardown deletes all state below StateDir that is ours, and bridges that were
// made for it. While namespaces exist it fails with FailedPrecondition. It is
// idempotent; the Network is not to be used after.
func (n *Network) Teardown(ctx context.Context) error {
	ids, err := n.Namespaces(ctx)
	if err != nil {
		return err
	}
	if len(ids) > 0 {
		return fmt.Errorf("tear down network: %d namespaces exist (%s …): %w", len(ids), ids[0], errdefs.ErrFailedPrecondition)
	}
	if err := errors.Join(n.Reconcile(ctx, nil), n.deleteBridges("")); err != nil {
		return fmt.Errorf("tear down network: %w", err)
	}
	return errors.Join(os.RemoveAll(n.dir("member")), os.RemoveAll(n.dir("cni")), os.RemoveAll(n.dir("netns")))
}
