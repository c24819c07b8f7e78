package pool

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/cni"
	"github.com/ctrsnap/ctrsnap/network/testsuite"
)

// BenchmarkAdd compares, one round after the other so that all see the same
// load: taking a namespace from the pool, making one by netlink, and making one
// by CNI plugins. It reports milliseconds.
func BenchmarkAdd(b *testing.B) {
	plugins := os.Getenv("CTRSNAP_TEST_BIN")
	if plugins == "" {
		plugins = "../../bin"
	}
	plugins, err := filepath.Abs(plugins)
	if err != nil {
		b.Fatal(err)
	}
	b.Setenv("TMPDIR", "/run") // where the daemon has its state, too: a filesystem in memory
	state := b.TempDir()
	pool, _ := mustOpen(b, 4)
	conflist := filepath.Join(b.TempDir(), "x.conflist")
	err = os.WriteFile(conflist, []byte(`{"cniVersion": "1.0.0", "name": "x", "plugins": [{"type": "bridge", "bridge": "cni7", "isGateway": true,
		"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.98.0.0/16"}]]}}]}`), 0o600)
	if err != nil {
		b.Fatal(err)
	}
	conf, err := cni.Read(conflist, false)
	if err != nil {
		b.Fatal(err)
	}
	byPlugins, err := cni.Open(b.Context(), cni.Options{StateDir: state, BinDirs: []string{plugins}, Networks: []cni.Conf{conf}})
	if err != nil {
		b.Fatal(err)
	}
	defer byPlugins.Teardown(b.Context())
	ways := []struct {
		name string
		network.Provider
	}{{"pool", pool}, {"netlink", pool.inner}, {"plugins", byPlugins}}
	took := map[string][]time.Duration{}
	var i int
	for b.Loop() {
		full(b, pool)
		i++
		for _, w := range ways {
			id := fmt.Sprintf("c%s%d", w.name, i)
			began := time.Now()
			testsuite.MustAddTo(b, w, id, network.Options{Lease: id})
			added := time.Now()
			testsuite.MustRemove(b, w, id)
			took[w.name] = append(took[w.name], added.Sub(began))
			took[w.name+"-remove"] = append(took[w.name+"-remove"], time.Since(added))
		}
	}
	for name, d := range took {
		slices.Sort(d)
		b.ReportMetric(ms(d[len(d)/2]), name+"-p50-ms")
		b.ReportMetric(ms(d[len(d)*99/100]), name+"-p99-ms")
	}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
