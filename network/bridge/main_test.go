package bridge

import (
	"context"
	"testing"

	"github.com/ctrsnap/ctrsnap/network/testsuite"
)

func TestMain(m *testing.M) { testsuite.Main(m) }

func openForSuite(ctx context.Context, c testsuite.Config) (testsuite.Network, func() error, error) {
	n, err := Open(ctx, Options{StateDir: c.StateDir, Bridge: c.Bridge, Subnet: c.Subnet, Log: c.Log, Failpoint: c.Failpoint})
	if err != nil {
		return nil, nil, err
	}
	return n, n.Close, nil
}

func TestSuite(t *testing.T) { testsuite.Run(t, openForSuite) }

func TestAssignUndoes(t *testing.T) { testsuite.UndoAssign(t, openForSuite) }

func TestIsolation(t *testing.T) { testsuite.RunIsolation(t, openForSuite) }

func TestCrashChild(t *testing.T) { testsuite.CrashChild(t, openForSuite) }

// mustOpen opens a network that is torn down at the end.
func mustOpen(t testing.TB, opts Options) *Network {
	t.Helper()
	cfg := testsuite.Config{StateDir: opts.StateDir, Subnet: opts.Subnet}
	return testsuite.MustOpen(t, openForSuite, cfg).(*Network)
}

func testOptions(t testing.TB) Options {
	t.Helper()
	return Options{StateDir: testsuite.Setup(t).StateDir}
}
