package cni

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ctrsnap/ctrsnap/network/netns"
)

// Reconcile frees the addresses and records of ids that have no namespace any
// more and are not in keep. Namespaces themselves are not touched: who owns
// them finds them with Namespaces. keep is for an id whose processes still use
// a namespace that lost its name.
//
// It can run at any time, beside Add and Remove. libcni's GC cannot: it takes
// what an Add has just recorded for garbage.
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
	return errors.Join(errs...)
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
	return n.detach(ctx, id, "")
}

// recorded lists the ids that libcni or host-local has records of.
func (n *Network) recorded() ([]string, error) {
	attachments, err := n.cni.GetCachedAttachments("")
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, a := range attachments {
		ids = append(ids, a.ContainerID)
	}
	ipam := n.dir("cni", "ipam")
	reserved, err := fs.Glob(os.DirFS(ipam), "*/*") // by network and address
	if err != nil {
		return nil, err
	}
	for _, path := range reserved {
		if id := reservedFor(filepath.Join(ipam, path)); id != "" {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// reservedFor reads a reservation of host-local: a file named by the address
// whose first line is the id.
func reservedFor(path string) string {
	if _, err := netip.ParseAddr(filepath.Base(path)); err != nil {
		return ""
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "" // released meanwhile
	}
	id, _, _ := strings.Cut(string(b), "\r\n")
	if netns.CheckID(id) != nil {
		return ""
	}
	return id
}
