package host

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ctrsnap/ctrsnap/network/cni"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// TestNetworks lists the default network, the one of none, and those of the configuration, with what is wrong with one.
func TestNetworks(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		makeDirs(t, filepath.Dir(path))
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	lan := write("shared/lan.conflist", `{"cniVersion": "1.0.0", "name": "lan", "plugins": [{"type": "bridge"}]}`)
	write("shared/broken.conflist", `{`)
	env := write("subnet.env", "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.2.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n")
	n := Networks{
		Default: &wire{},
		Confs:   cni.Confs{Dirs: []cni.Dir{{Path: filepath.Join(dir, "own")}, {Path: filepath.Join(dir, "shared"), Shared: true}}, FlannelFile: env},
		Plugins: cni.NewPlugins(filepath.Join(dir, "status"), []string{filepath.Join(dir, "bin")}),
	}
	got, err := n.Networks(t.Context(), access.Daemon)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Problems) != 1 || !strings.Contains(got.Problems[0], "broken.conflist") {
		t.Errorf("problems %q", got.Problems)
	}
	for i, d := range got.Networks {
		if (d.Problem != "") != (d.Kind == "cni" || d.Kind == "flannel") || d.Problem != "" && !strings.Contains(d.Problem, filepath.Join(dir, "bin")) {
			t.Errorf("problem of %s, which has no plugins: %q", d.Name, d.Problem)
		}
		got.Networks[i].Problem = ""
	}
	lease := api.Network{Isolation: "lease"}
	bridge, own, flannel := lease, lease, lease
	bridge.Name, bridge.Kind, bridge.Default, bridge.Detail = "default", "bridge", true, "wire"
	own.Name, own.Kind, own.File, own.Shared, own.Plugins = "lan", "cni", lan, true, []string{"bridge"}
	flannel.Name, flannel.Kind, flannel.Plugins = "flannel", "flannel", got.Networks[len(got.Networks)-1].Plugins
	none := api.Network{Name: "none", Kind: "none", Isolation: "all", Detail: "reached by the unix socket only"}
	if diff := cmp.Diff([]api.Network{bridge, none, own, flannel}, got.Networks); diff != "" {
		t.Error(diff)
	}

	n.Confs.FlannelFile += ".none"
	n.Conf = func() (cni.Conf, error) { return cni.Read(lan, false) }
	if got, err = n.Networks(t.Context(), access.Daemon); err != nil || len(got.Networks) != 3 {
		t.Fatalf("%+v, %v", got, err)
	}
	if d := got.Networks[0]; d.Name != "default" || !d.Default || d.Kind != "cni" || d.Detail != "wire" || d.File != lan {
		t.Errorf("a CNI network as the default one: %+v", d)
	}
	n.Conf = func() (cni.Conf, error) { return cni.Read(lan+".none", false) }
	if got, err = n.Networks(t.Context(), access.Daemon); err == nil {
		t.Errorf("without its file: %+v", got)
	}
}
