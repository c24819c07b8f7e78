package pool

import (
	"context"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/ctrsnap/ctrsnap/network/bridge"
	"github.com/ctrsnap/ctrsnap/network/testsuite"
)

func TestMain(m *testing.M) { testsuite.Main(m) }

// sized opens pools over the bridge.
func sized(size int) testsuite.Open {
	return func(ctx context.Context, c testsuite.Config) (testsuite.Network, func() error, error) {
		inner, err := bridge.Open(ctx, bridge.Options{StateDir: c.StateDir, Bridge: c.Bridge, Subnet: c.Subnet, Log: c.Log})
		if err != nil {
			return nil, nil, err
		}
		p, err := Open(ctx, inner, Options{Dir: filepath.Join(c.StateDir, "pool"), Size: size, Parallel: 2, Log: c.Log, Failpoint: c.Failpoint})
		if err != nil {
			return nil, nil, err
		}
		return p, p.Close, nil
	}
}

func TestSuiteEmptyPool(t *testing.T) {
	defer goleak.VerifyNone(t)
	testsuite.Run(t, sized(0))
}

func TestSuite(t *testing.T) {
	defer goleak.VerifyNone(t)
	testsuite.Run(t, sized(3))
}

func TestIsolation(t *testing.T) {
	defer goleak.VerifyNone(t)
	testsuite.RunIsolation(t, sized(2))
}

func TestCrashChild(t *testing.T) { testsuite.CrashChild(t, sized(1)) }
