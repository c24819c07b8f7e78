package telemetry

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// collector reads a Source at each scrape.
type collector struct{ Source }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("ctrsnap_"+name, help, labels, nil)
}

var (
	cloneLive      = desc("clone_live", "Clones by golden, owner and state.", "golden", "owner", "state")
	cloneMemory    = desc("clone_memory_bytes", "Memory of clones, as last measured.", "golden", "owner")
	cloneDisk      = desc("clone_disk_bytes", "Disk that clones hold alone, as last measured.", "golden", "owner")
	poolReady      = desc("pool_ready", "Clones that wait in the pool.", "golden")
	poolWanted     = desc("pool_wanted", "Clones that are to wait in the pool.", "golden")
	poolMaking     = desc("pool_making", "Clones that are made for the pool.", "golden")
	poolHits       = desc("pool_hits_total", "Claims that found a clone in the pool.", "golden")
	poolMisses     = desc("pool_misses_total", "Claims that found none.", "golden")
	queueActive    = desc("queue_active", "Clones that are made just now.")
	queueWaiting   = desc("queue_waiting", "Requests that wait for their turn.")
	queueAdmission = desc("queue_admission_waiting", "Requests that wait for room in a quota.")
	teardowns      = desc("teardown_pending", "Clones that are gone for their users and not yet for the host.")
	storageSize    = desc("storage_size_bytes", "Size of the filesystem that holds goldens and clones.")
	storageFree    = desc("storage_free_bytes", "What is free of it.")
	storageReserve = desc("storage_reserve_bytes", "Below so much free, nothing is made.")
	storageLow     = desc("storage_low", "1 while nothing is made for want of room.")
	goldenSize     = desc("golden_size_bytes", "Size of the layers of a golden's versions.", "golden")
	goldenVersions = desc("golden_versions", "Versions of a golden.", "golden")
	eventLast      = desc("event_total", "Events since the start.")
	reconciled     = desc("reconcile_total", "What the start of the daemon found, by result.", "result")
)

// Describe implements [prometheus.Collector].
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		cloneLive, cloneMemory, cloneDisk, poolReady, poolWanted, poolMaking, poolHits, poolMisses, queueActive, queueWaiting, queueAdmission,
		teardowns, storageSize, storageFree, storageReserve, storageLow, goldenSize, goldenVersions, eventLast, reconciled,
	} {
		ch <- d
	}
}

// Collect implements [prometheus.Collector]. What cannot be had is left out.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	c.clones(gauge)
	if pools, err := c.Pools(ctx); err == nil {
		c.pools(gauge, counter, pools)
	}
	load := c.Load()
	gauge(queueActive, float64(load.Active))
	gauge(queueWaiting, float64(load.Waiting))
	gauge(queueAdmission, float64(load.Admissions))
	gauge(teardowns, float64(load.Teardowns))
	if s, err := c.Space(); err == nil {
		gauge(storageSize, float64(s.Size))
		gauge(storageFree, float64(s.Free))
		gauge(storageReserve, float64(s.Reserve))
	}
	low := 0.0
	if c.Room() != nil {
		low = 1
	}
	gauge(storageLow, low)
	if goldens, err := c.Goldens(ctx); err == nil {
		c.goldens(gauge, goldens)
	}
	counter(eventLast, float64(c.Events.Last()))
	for result, n := range map[string]int{
		"adopted": c.Recover.Adopted, "pool": c.Recover.Members, "removed": c.Recover.Removed, "orphans": c.Recover.Orphans,
	} {
		counter(reconciled, float64(n), result)
	}
}

type emit func(d *prometheus.Desc, v float64, labels ...string)

func (c *collector) clones(gauge emit) {
	type key struct{ golden, owner string }
	live := map[[3]string]float64{}
	memory, disk := map[key]float64{}, map[key]float64{}
	for _, clone := range c.LastMeasured() {
		k := key{clone.Golden, clone.Owner}
		live[[3]string{k.golden, k.owner, string(clone.State)}]++
		memory[k] += float64(clone.MemoryBytes)
		disk[k] += float64(clone.DiskBytes)
	}
	for k, n := range live {
		gauge(cloneLive, n, k[:]...)
	}
	for k := range memory {
		gauge(cloneMemory, memory[k], k.golden, k.owner)
		gauge(cloneDisk, disk[k], k.golden, k.owner)
	}
}

func (c *collector) pools(gauge, counter emit, pools []api.Pool) {
	type sum struct{ ready, wanted, making, hits, misses float64 }
	sums := map[string]sum{}
	for _, p := range pools {
		s := sums[p.Golden]
		sums[p.Golden] = sum{
			s.ready + float64(p.Ready), s.wanted + float64(p.Wanted), s.making + float64(p.Making), s.hits + float64(p.Hits), s.misses + float64(p.Misses),
		}
	}
	for golden, s := range sums {
		gauge(poolReady, s.ready, golden)
		gauge(poolWanted, s.wanted, golden)
		gauge(poolMaking, s.making, golden)
		counter(poolHits, s.hits, golden)
		counter(poolMisses, s.misses, golden)
	}
}

func (c *collector) goldens(gauge emit, goldens []api.Golden) {
	bytes, versions := map[string]float64{}, map[string]float64{}
	for _, g := range goldens {
		bytes[g.Name] += float64(g.SizeBytes)
		versions[g.Name]++
	}
	for name := range versions {
		gauge(goldenSize, bytes[name], name)
		gauge(goldenVersions, versions[name], name)
	}
}
