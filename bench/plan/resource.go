package plan

import (
	"fmt"
	"math"
)

func (p Profile) memory(l Load) Resource {
	each := p.CloneBytes + float64(l.JobMemory)
	return Resource{
		Name: "memory", Unit: "clones", Limit: math.Floor(max(float64(p.Machine.MemoryBytes-reserve), 0) / each),
		Why: fmt.Sprintf("(%.1f GiB - %d GiB for the system) / (%.1f MiB a clone + %.1f MiB a test)",
			gib(float64(p.Machine.MemoryBytes)), reserve>>30, mib(p.CloneBytes), mib(float64(l.JobMemory))),
	}
}

func (p Profile) disk(l Load) Resource {
	each := max(p.CloneDisk+float64(l.Written), 1)
	return Resource{
		Name: "disk", Unit: "clones", Limit: math.Floor(full * float64(p.Machine.StorageFree) / each),
		Why: fmt.Sprintf("%.0f %% of %.1f GiB free / (%.1f MiB a clone + %.1f MiB written)",
			100*full, gib(float64(p.Machine.StorageFree)), mib(p.CloneDisk), mib(float64(l.Written))),
	}
}

// cpu is how many claims per second the processors stand, with all that a clone
// takes from its making to its removal.
func (p Profile) cpu(l Load, life float64) Resource {
	each := (p.HitCPU+p.MakeCPU+p.RemoveCPU)/1e3 + l.JobCPUs*life
	return Resource{
		Name: "cpu", Unit: "claims/s", Limit: full * float64(p.Machine.CPUs) / p.contention() / each,
		Why: fmt.Sprintf("%.0f %% of %d CPUs / %.2f for steps that disturb each other / (%.0f ms to make + %.0f ms to hand out + %.0f ms to remove + %.3g CPUs × %.3g s of the test)",
			100*full, p.Machine.CPUs, p.contention(), p.MakeCPU, p.HitCPU, p.RemoveCPU, l.JobCPUs, life),
	}
}

// refill is how many members per second are made ahead, at best.
func (p Profile) refill() Resource {
	sum := 0.0
	for _, v := range p.Make {
		sum += v
	}
	each := sum / float64(len(p.Make))
	return Resource{
		Name: "refill", Unit: "claims/s", Limit: full * float64(p.Refill) / (each / 1e3),
		Why: fmt.Sprintf("%.0f %% of %d at a time (pool.parallel) / %.1f ms each", 100*full, p.Refill, each),
	}
}

// pace is how many claims per second one runner stands without falling behind.
func (p Profile) pace(l Load, life float64) float64 {
	return min(p.cpu(l, life).Limit, p.refill().Limit)
}

func gib(b float64) float64 { return b / (1 << 30) }
func mib(b float64) float64 { return b / (1 << 20) }
