package flannel

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
)

// host is a directory with a lease and a delegate that notes what it is called
// with.
type host struct{ dir, plugins string }

func newHost(t *testing.T) host {
	t.Helper()
	dir := t.TempDir()
	h := host{dir, filepath.Join(dir, "bin")}
	if err := os.Mkdir(h.plugins, 0o700); err != nil {
		t.Fatal(err)
	}
	h.write(t, "subnet.env", whole)
	const script = `#!/bin/sh
cat > %[1]s/$CNI_COMMAND.json; echo "$CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $CNI_ARGS" > %[1]s/$CNI_COMMAND.env
[ ! -e %[1]s/fail ] || { echo '{"cniVersion":"0.4.0","code":11,"msg":"not now"}'; exit 1; }
[ $CNI_COMMAND != ADD ] || echo '{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.244.7.2/24"}]}'
`
	for _, name := range []string{"bin/bridge", "bin/ptp"} {
		h.write(t, name, fmt.Sprintf(script, dir))
		if err := os.Chmod(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func (h host) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(h.dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (h host) read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(h.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// call runs the plugin in paths, or ours where it is in none.
func (h host) call(t *testing.T, command, conf string, paths ...string) (string, error) {
	t.Helper()
	exec := Exec{&invoke.DefaultExec{RawExec: &invoke.RawExec{}}}
	paths = append([]string{h.plugins}, paths...)
	path, err := exec.FindInPath(Type, paths)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.ExecPlugin(context.WithoutCancel(t.Context()), path, []byte(h.conf(conf)), []string{
		"PATH=" + os.Getenv("PATH"), "CNI_COMMAND=" + command, "CNI_CONTAINERID=c1", "CNI_NETNS=/proc/self/ns/net", "CNI_IFNAME=eth0",
		"CNI_ARGS=IgnoreUnknown=1", "CNI_PATH=" + strings.Join(paths, ":"),
	})
	return string(out), err
}

// conf completes a configuration.
func (h host) conf(more string) string {
	return fmt.Sprintf(`{"cniVersion": "0.4.0", "name": "fl", "type": "flannel", "subnetFile": %q, "dataDir": %q %s}`,
		filepath.Join(h.dir, "subnet.env"), filepath.Join(h.dir, "data"), more)
}

var confs = map[string]string{
	"plain":     "",
	"kube":      `, "delegate": {"hairpinMode": true, "isDefaultGateway": true}`,
	"masq":      `, "delegate": {"ipMasq": false, "mtu": 1300, "isGateway": false, "bridge": "fl0"}`,
	"ptp":       `, "delegate": {"type": "ptp"}`,
	"ipam":      `, "ipam": {"dataDir": "/x", "routes": [{"dst": "10.0.0.0/8", "gw": "10.244.7.1"}, {"dst": "1.1.1.1/32"}]}`,
	"dhcp":      `, "ipam": {"type": "dhcp"}`,
	"runtime":   `, "runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 5432}]}`,
	"null":      `, "delegate": null, "ipam": null`,
	"bandwidth": `, "runtimeConfig": {"bandwidth": {"ingressRate": 1000, "ingressBurst": 1000}}, "delegate": {"vlan": 3}`,
}

// TestSameAsThePlugin compares what both delegate, byte by byte but for the
// order of keys.
func TestSameAsThePlugin(t *testing.T) {
	dir := cmp.Or(os.Getenv("CTRSNAP_TEST_FLANNEL"), "../../.cache/flannel")
	if _, err := os.Stat(filepath.Join(dir, "flannel")); err != nil {
		t.Skipf("needs flannel's CNI plugin, built by .ci/flannel-setup: %v", err)
	}
	for name, conf := range confs {
		for env, text := range map[string]string{
			"v4": whole, "nomasq": strings.Replace(whole, "IPMASQ=true", "IPMASQ=false", 1),
			"dual": whole + "FLANNEL_IPV6_NETWORK=fd00::/48\nFLANNEL_IPV6_SUBNET=fd00:0:0:7::1/64\n",
		} {
			t.Run(name+" "+env, func(t *testing.T) {
				h := newHost(t)
				h.write(t, "subnet.env", text)
				var seen [2][4]string
				for i, paths := range [][]string{nil, {dir}} {
					out, err := h.call(t, "ADD", conf, paths...)
					if err != nil {
						t.Fatal(err)
					}
					seen[i][0], seen[i][1] = canonical(t, h.read(t, "ADD.json")), h.read(t, "ADD.env")
					if !strings.Contains(out, "10.244.7.2/24") {
						t.Errorf("result %s", out)
					}
					if _, err := h.call(t, "DEL", conf, paths...); err != nil {
						t.Fatal(err)
					}
					seen[i][2], seen[i][3] = canonical(t, h.read(t, "DEL.json")), h.read(t, "DEL.env")
					if left, _ := filepath.Glob(filepath.Join(h.dir, "data", "*")); len(left) > 0 {
						t.Errorf("left: %v", left)
					}
				}
				if seen[0] != seen[1] {
					t.Errorf("ours\n%s\nthe plugin's\n%s", seen[0], seen[1])
				}
			})
		}
	}
}

func canonical(t *testing.T, doc string) string {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(doc), &v); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestDelegate holds one result in full, for where the plugin is not built.
func TestDelegate(t *testing.T) {
	h := newHost(t)
	if _, err := h.call(t, "ADD", confs["kube"]); err != nil {
		t.Fatal(err)
	}
	const want = `{"cniVersion":"0.4.0","hairpinMode":true,"ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.244.7.0/24"}]],` +
		`"routes":[{"dst":"10.244.0.0/16"}],"type":"host-local"},"isDefaultGateway":true,"isGateway":true,"mtu":1450,"name":"fl","type":"bridge"}`
	if got := canonical(t, h.read(t, "ADD.json")); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := h.read(t, "ADD.env"); got != "c1 /proc/self/ns/net eth0 IgnoreUnknown=1\n" {
		t.Errorf("environment %s", got)
	}
	if _, err := h.call(t, "CHECK", `, "prevResult": {"ips": []}`+confs["kube"]); err != nil {
		t.Error(err)
	}
	if got := h.read(t, "CHECK.json"); !strings.Contains(got, `"prevResult":{"ips":[]}`) {
		t.Errorf("checked with %s", got)
	}
}

func TestVerbs(t *testing.T) {
	h := newHost(t)
	if out, err := h.call(t, "VERSION", ""); err != nil || !strings.Contains(out, `"supportedVersions":["0.1.0"`) {
		t.Errorf("version %s, %v", out, err)
	}
	for _, verb := range []string{"STATUS", "GC", "DEL"} {
		if _, err := h.call(t, verb, ""); err != nil {
			t.Errorf("%s: %v", verb, err)
		}
	}
	h.write(t, "subnet.env", "")
	var e *types.Error
	if _, err := h.call(t, "STATUS", ""); !errors.As(err, &e) || e.Code != types.ErrPluginNotAvailable {
		t.Errorf("status without flanneld: %v", err)
	}
	if _, err := h.call(t, "ADD", ""); !errors.As(err, &e) || e.Code != types.ErrTryAgainLater {
		t.Errorf("add without flanneld: %v", err)
	}
	if _, err := h.call(t, "CHECK", ""); err == nil {
		t.Error("what was never added is right")
	}
}

// TestFailedDelegate keeps what is to be undone until it is.
func TestFailedDelegate(t *testing.T) {
	h := newHost(t)
	h.write(t, "fail", "")
	var e *types.Error
	for _, verb := range []string{"ADD", "DEL"} {
		if _, err := h.call(t, verb, ""); !errors.As(err, &e) || e.Msg != "not now" {
			t.Errorf("%s: %v", verb, err)
		}
	}
	if err := os.Remove(filepath.Join(h.dir, "fail")); err != nil {
		t.Fatal(err)
	}
	h.write(t, "subnet.env", "") // what is undone is what was done, whatever is leased now
	if _, err := h.call(t, "DEL", ""); err != nil {
		t.Error(err)
	}
	if !strings.Contains(h.read(t, "DEL.json"), "10.244.7.0/24") {
		t.Errorf("undone with %s", h.read(t, "DEL.json"))
	}
}

func TestBadConf(t *testing.T) {
	h := newHost(t)
	var e *types.Error
	for _, more := range []string{
		`, "delegate": {"type": 1}`, `, "delegate": {"name": "x"}`, `, "delegate": {"ipam": {}}`, `, "delegate": []`, `, "ipam": {"routes": 1}`,
	} {
		if _, err := h.call(t, "ADD", more); !errors.As(err, &e) || e.Code != types.ErrInvalidNetworkConfig {
			t.Errorf("%s: %v", more, err)
		}
	}
	if _, err := h.call(t, "ADD", `, "delegate": {"type": "nonesuch"}`); err == nil || !strings.Contains(err.Error(), "nonesuch") {
		t.Errorf("unknown delegate: %v", err)
	}
}
