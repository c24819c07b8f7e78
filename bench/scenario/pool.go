package scenario

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"syscall"
	"time"

	"github.com/ctrsnap/ctrsnap/bench/rig"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

const (
	terminate   = syscall.SIGTERM
	kill        = syscall.SIGKILL
	warmTimeout = 2 * time.Minute
)

// errNoPool says that this ctrsnap has no pool.
var errNoPool = errors.New("this ctrsnap has no verb pool")

// usage is the exit code of a command line that is not understood.
const usage = 2

// setPool gives the pool of a golden a size: errNoPool where there is none.
func (e *Env) setPool(ctx context.Context, golden string, n int) error {
	_, err := e.Rig.CLI(ctx, "pool", "set", e.ref(golden), "--size", strconv.Itoa(n))
	var exit *rig.ExitError
	if errors.As(err, &exit) && exit.Code == usage {
		return errNoPool
	}
	return err
}

// unpooled builds the golden and sees to it that no clone of it is made ahead.
func (e *Env) unpooled(ctx context.Context, golden string) error {
	if _, err := e.golden(ctx, golden); err != nil {
		return err
	}
	if err := e.setPool(ctx, golden, 0); !errors.Is(err, errNoPool) {
		return err
	}
	return nil
}

// pooled builds the golden and waits until n clones of it wait.
func (e *Env) pooled(ctx context.Context, golden string, n int) error {
	if _, err := e.golden(ctx, golden); err != nil {
		return err
	}
	if err := e.setPool(ctx, golden, n); err != nil {
		return err
	}
	return e.warm(ctx, golden, n)
}

// warm waits until n clones of the golden wait.
func (e *Env) warm(ctx context.Context, golden string, n int) error {
	ctx, cancel := context.WithTimeout(ctx, warmTimeout)
	defer cancel()
	var pools []api.Pool
	var err error
	waitErr := e.await(ctx, "the pool of "+golden, func() bool {
		if pools, err = client.Do(ctx, e.Rig.Client(), api.ListPools, api.None{}); err != nil {
			return ctx.Err() == nil // say so now
		}
		return ready(pools, e.ref(golden)) >= n
	})
	if waitErr != nil {
		return fmt.Errorf("%w: %+v", waitErr, pools)
	}
	return err
}

// ready is how many clones of a golden wait.
func ready(pools []api.Pool, golden string) int {
	n := 0
	for _, p := range pools {
		if p.Golden == golden {
			n += p.Ready
		}
	}
	return n
}
