package cni

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/network"
)

// TestMissingMaster: what a plugin calls a link that is not found has a name.
func TestMissingMaster(t *testing.T) {
	n := mustOpen(t, testOptions(t, `{"cniVersion":"1.0.0","name":"lan","plugins":[{"type":"macvlan","master":"nonesuch0","ipam":{}}]}`))
	_, err := n.Add(t.Context(), "ca", network.Options{})
	for what, err := range map[string]error{"add": err, "status": n.plugins.Status(t.Context(), n.confs[0])} {
		if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "nonesuch0") || !strings.Contains(err.Error(), "network lan") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if ids, _ := n.recorded(); len(ids) > 0 {
		t.Errorf("left: %v", ids)
	}
}
