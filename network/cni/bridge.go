package cni

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/ctrsnap/ctrsnap/network/bridge"
)

func (o *Options) bridge() bridge.Config {
	return bridge.Config{StateDir: o.StateDir, Name: o.Bridge, Subnet: o.Subnet, Log: o.Log}
}

// ensureBridge makes the bridge anew if somebody deleted it: the plugin would,
// but without an address.
func (n *Network) ensureBridge() error {
	if n.bridge == nil {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.bridge.Ensure()
}

// nameVeth writes the clone's id on the host's end of its link, whose name the
// plugin draws at random.
func (n *Network) nameVeth(id string, r *types100.Result) error {
	if n.bridge == nil {
		return nil
	}
	for _, i := range r.Interfaces {
		if i.Sandbox != "" || i.Name == n.bridge.Name {
			continue
		}
		if err := bridge.NamePort(i.Name, id); err != nil {
			return err
		}
	}
	return nil
}

// Teardown deletes the bridge and all state below StateDir that is ours. While
// namespaces exist it fails with FailedPrecondition. It is idempotent; the
// Network is not to be used after.
func (n *Network) Teardown(ctx context.Context) error {
	ids, err := n.Namespaces(ctx)
	if err != nil {
		return err
	}
	if len(ids) > 0 {
		return fmt.Errorf("tear down network: %d namespaces exist (%s …): %w", len(ids), ids[0], errdefs.ErrFailedPrecondition)
	}
	if n.bridge != nil {
		if err := n.bridge.Delete(); err != nil {
			return fmt.Errorf("tear down network: %w", err)
		}
	}
	return errors.Join(os.RemoveAll(n.dir("cni")), os.RemoveAll(n.dir("netns")))
}
