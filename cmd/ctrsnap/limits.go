package main

import (
	"errors"
	"math"
	"strconv"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// bytesFlag is a number of bytes like 512MiB or 20GiB.
type bytesFlag int64

// Set parses the number; units are powers of two only, as in the configuration.
func (b *bytesFlag) Set(s string) error {
	number, factor := s, int64(1)
	for i, unit := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if n, found := strings.CutSuffix(s, unit); found {
			number, factor = n, 1<<(10*(i+1))
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n <= 0 || n > math.MaxInt64/factor {
		return errors.New("want a form like 512MiB or 20GiB")
	}
	*b = bytesFlag(n * factor)
	return nil
}

func (b *bytesFlag) String() string {
	if b == nil || *b == 0 {
		return ""
	}
	return size(int64(*b))
}

// Get is for the parser.
func (b *bytesFlag) Get() any { return int64(*b) }

// limits are the flags that bound a clone.
type limits struct{ api.Limits }

func (l *limits) flags() []cli.Flag {
	return []cli.Flag{
		&cli.GenericFlag{Name: "memory", Usage: "most memory, as `512MiB`; default the daemon's, here and below", Value: (*bytesFlag)(&l.MemoryBytes)},
		&cli.FloatFlag{Name: "cpus", Usage: "most CPU time, as `1.5`", Destination: &l.CPUs, HideDefault: true},
		&cli.Int64Flag{Name: "pids", Usage: "most processes and threads, `N`", Destination: &l.Pids, HideDefault: true},
		&cli.GenericFlag{Name: "disk", Usage: "most disk of its own, as `2GiB`: a clone beyond it is stopped", Value: (*bytesFlag)(&l.DiskBytes)},
		&cli.IntFlag{Name: "connections", Usage: "most connections at a time, `N`", Destination: &l.Connections, HideDefault: true},
	}
}

// life are the flags that say what a clone lives by, beside --ttl.
type life struct {
	lease   string
	idle    api.Duration
	protect bool
}

func (l *life) flags() []cli.Flag {
	return []cli.Flag{
		durationFlag("idle-ttl", "end it when nobody was connected for `D`", &l.idle),
		&cli.BoolFlag{Name: "protect", Usage: "nothing but rm --force ends it", Destination: &l.protect},
		&cli.StringFlag{Name: "lease", Usage: "let it live for as long as `pid:N|cgroup:PATH`", Destination: &l.lease},
	}
}

// apply completes a request.
func (l *life) apply(req *api.CloneRequest) error {
	req.IdleTTL, req.Protect = l.idle, l.protect
	if l.lease == "" {
		return nil
	}
	kind, holder, _ := strings.Cut(l.lease, ":")
	if kind != string(api.LeasePID) && kind != string(api.LeaseCgroup) || holder == "" {
		return usagef("a process: --lease pid:$PPID; a cgroup: --lease cgroup:/system.slice/job.scope").of("invalid --lease %q", l.lease)
	}
	req.Lease, req.LeaseHolder = api.LeaseKind(kind), holder
	return nil
}
