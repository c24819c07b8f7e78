package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ctrsnap/ctrsnap/bench/machine"
	"github.com/ctrsnap/ctrsnap/bench/recorder"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

const (
	// parallel is how many callers fill the host, ask and empty it.
	parallel = 8
	// reserve is the memory that must stay available.
	reserve = 2 << 30
	// filling is how long making the clones may take.
	filling = 4 * time.Minute
)

// density fills the host with clones and looks what each costs.
func density(ctx context.Context, t *take) (err error) {
	golden := t.subject("shop")
	if err := t.unpooled(ctx, golden); err != nil {
		return err
	}
	wanted := t.Clones
	before := machine.Memory("MemAvailable")
	live := recorder.New("clones", golden, "clones")
	clones, err := t.fillInSteps(ctx, golden, wanted, live)
	defer func() { err = errors.Join(err, t.empty(ctx, clones)) }()
	if err != nil {
		return err
	}
	used := before - machine.Memory("MemAvailable")
	if len(clones) < wanted {
		t.skip("%d clones of %d: less than %d MiB of memory were left, or %v were over", len(clones), wanted, reserve>>20, filling)
	}
	if err := t.weigh(ctx, golden, clones); err != nil {
		return err
	}
	answering := t.answerAll(ctx, clones, live)
	live.Add(float64(answering))
	perGiB := recorder.New("answering_per_gib", golden, "1/GiB")
	if used > 0 {
		perGiB.Add(float64(answering) / (float64(used) / (1 << 30)))
		t.note("answering_per_gib: MemAvailable fell by %d MiB, shims, daemon and whatever others did included", used>>20)
	} else {
		t.skip("answering_per_gib: MemAvailable did not fall with %d clones: others gave more back than they took", answering)
	}
	t.keep(live, perGiB)
	return ctx.Err()
}

// steps is how many times memory and disk are looked at while clones are made.
const steps = 10

// fillInSteps is fill, and records what the clones take while they become more.
func (t *take) fillInSteps(ctx context.Context, golden string, n int, live *recorder.Recorder) (clones []api.Clone, err error) {
	create := recorder.New("create", golden, "ms")
	defer t.keep(create)
	end := time.Now().Add(filling)
	memory, disk := machine.Memory("MemAvailable"), machine.Free(t.Rig.Storage())
	for i := range steps {
		more := n*(i+1)/steps - len(clones)
		made, err := t.fill(ctx, golden, more, end, live, create)
		clones = append(clones, made...)
		if err != nil || len(made) < more {
			return clones, err
		}
		at := func(name string, used int64) {
			r := recorder.New(name, golden, "bytes").At("clones", float64(len(clones)))
			r.Add(float64(max(used, 0))) // others may have given some back
			t.keep(r)
		}
		at("memory_used", memory-machine.Memory("MemAvailable"))
		at("disk_used", disk-machine.Free(t.Rig.Storage()))
	}
	return clones, nil
}

// fill makes n clones, fewer if memory runs out or the time is over.
func (t *take) fill(ctx context.Context, golden string, n int, end time.Time, live, create *recorder.Recorder) ([]api.Clone, error) {
	clones := make([]api.Clone, n)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i := range clones {
		if machine.Memory("MemAvailable") < reserve || time.Now().After(end) || gctx.Err() != nil {
			break
		}
		g.Go(func() error {
			c, took, _, err := t.clone(gctx, golden)
			if err != nil {
				return t.fail(gctx, live, err)
			}
			create.AddDuration(took)
			clones[i] = c
			return nil
		})
	}
	err := g.Wait()
	made := clones[:0]
	for _, c := range clones {
		if c.ID != "" {
			made = append(made, c)
		}
	}
	return made, err
}

// answerAll counts the clones that answer with the right rows.
func (t *take) answerAll(ctx context.Context, clones []api.Clone, live *recorder.Recorder) int {
	ok := make(chan struct{}, len(clones))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, c := range clones {
		g.Go(func() error {
			if err := checkRows(gctx, t.endpoint(c)); err != nil {
				return t.fail(gctx, live, fmt.Errorf("clone %s: %w", c.ID, err))
			}
			ok <- struct{}{}
			return nil
		})
	}
	_ = g.Wait() // fail has recorded it
	return len(ok)
}

// weigh reads what each idle clone has for itself.
func (t *take) weigh(ctx context.Context, golden string, clones []api.Clone) error {
	private, own := recorder.New("unshared_bytes_per_clone", golden, "bytes"), recorder.New("own_bytes_per_clone", golden, "bytes")
	disk := recorder.New("disk_bytes_per_clone", golden, "bytes")
	for _, c := range clones {
		m, err := processMemory(c.PID)
		if err != nil {
			if err := t.fail(ctx, private, fmt.Errorf("clone %s: %w", c.ID, err)); err != nil {
				return err
			}
			continue
		}
		private.Add(float64(m.private))
		own.Add(float64(m.own))
	}
	for i := 0; i < len(clones); i += max(1, len(clones)/50) {
		c, err := client.Do(ctx, t.Rig.Client(), api.GetClone, api.CloneArgs{ID: clones[i].ID})
		if err != nil {
			return err
		}
		disk.Add(float64(c.DiskBytes))
	}
	t.note("unshared: Private_* of each process; own: anonymous and shared memory, pages that processes of one clone share counted once (Pss)")
	t.keep(private, own, disk)
	return nil
}

// empty removes the clones.
func (t *take) empty(ctx context.Context, clones []api.Clone) error {
	return t.emptyBut(ctx, clones, 0)
}

// emptyBut is empty while others live that are kept.
func (t *take) emptyBut(ctx context.Context, clones []api.Clone, keep int) error {
	if len(clones) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Minute)
	defer cancel()
	begun := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, c := range clones {
		g.Go(func() error { return client.Tell(gctx, t.Rig.Client(), api.RemoveClone, api.RemoveArgs{ID: c.ID}) })
	}
	if err := errors.Join(g.Wait(), t.drained(ctx, keep)); err != nil {
		return err
	}
	t.note("%d clones were gone %.1f s after the first was removed", len(clones), time.Since(begun).Seconds())
	return nil
}

// memory is that of all processes of a clone, in bytes.
type memory struct{ private, own int64 }

// processMemory sums up /proc/PID/smaps_rollup of a process and its descendants:
// see proc_pid_smaps(5).
func processMemory(pid int) (memory, error) {
	var m memory
	dir := fmt.Sprintf("/proc/%d/", pid)
	b, err := os.ReadFile(dir + "smaps_rollup")
	if err != nil {
		return m, err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		kib, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			return m, fmt.Errorf("%ssmaps_rollup: %w", dir, err)
		}
		switch f[0] {
		case "Private_Clean:", "Private_Dirty:":
			m.private += kib << 10
		case "Pss_Anon:", "Pss_Shmem:":
			m.own += kib << 10
		}
	}
	children, err := os.ReadFile(fmt.Sprintf("%stask/%d/children", dir, pid))
	if err != nil {
		return m, err
	}
	for _, f := range strings.Fields(string(children)) {
		child, err := strconv.Atoi(f)
		if err != nil {
			return m, err
		}
		c, err := processMemory(child)
		if err != nil {
			continue // a process of the server that has ended meanwhile
		}
		m.private, m.own = m.private+c.private, m.own+c.own
	}
	return m, nil
}
