package manager

import (
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// hiddenIn adds up the files that processes have open, or mapped, though they are in no
// directory, by the PID namespace of the processes, as in /proc/PID/ns/pid. dev says of which
// filesystem they are to be, in namespaces that matter. What is on its way through a socket
// is not seen.
func hiddenIn(dev func(ns string) (uint64, bool)) map[string]held {
	type file struct {
		ns  string
		ino uint64
	}
	seen, sums := map[file]bool{}, map[string]held{}
	own, _ := os.Readlink("/proc/self/ns/pid")
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range procs {
		ns, err := os.Readlink(filepath.Join(proc, "ns/pid"))
		if err != nil || ns == own {
			continue
		}
		of, ok := dev(ns)
		if !ok {
			continue
		}
		for _, path := range open(proc) {
			var st unix.Stat_t
			if unix.Stat(path, &st) != nil || st.Dev != of || st.Nlink > 0 || seen[file{ns, st.Ino}] {
				continue
			}
			seen[file{ns, st.Ino}] = true
			sum := sums[ns]
			sums[ns] = held{bytes: sum.bytes + st.Blocks*512, files: sum.files + 1}
		}
	}
	return sums
}

// open lists what a process has open or mapped: see proc_pid_fd(5), proc_pid_map_files(5).
func open(proc string) (paths []string) {
	for _, dir := range []string{"fd", "map_files"} {
		entries, _ := os.ReadDir(filepath.Join(proc, dir)) // it may have ended
		for _, e := range entries {
			paths = append(paths, filepath.Join(proc, dir, e.Name()))
		}
	}
	return paths
}

// hiddenDisk is what clones, by their ids, hold open of their disks though they have removed
// it: their layers do not show it. It is looked for again when something was written, or is
// hidden, and for a twentieth of the time at most.
func (w *watcher) hiddenDisk(clones []*clone) map[string]int64 {
	if w.written-w.hiddenWritten < minGrowth && len(w.hiddenOn) == 0 || time.Since(w.hiddenAt) < max(time.Second, 20*w.hiddenTook) {
		return w.hiddenOn
	}
	begun := time.Now()
	roots, ids := map[string]uint64{}, map[string]string{}
	for _, c := range clones {
		var st unix.Stat_t
		if ns := c.pidNS(); ns != "" && !c.isDead() && unix.Stat("/proc/"+strconv.Itoa(c.task.PID())+"/root", &st) == nil {
			roots[ns], ids[ns] = st.Dev, c.id
		}
	}
	// The kernel gives the number of a namespace that is gone to the next one: only ids may be kept.
	w.hiddenOn = map[string]int64{}
	for ns, h := range hiddenIn(func(ns string) (uint64, bool) { dev, ok := roots[ns]; return dev, ok }) {
		if h.bytes >= minGrowth {
			w.hiddenOn[ids[ns]] = h.bytes
		}
	}
	w.hiddenWritten, w.hiddenAt, w.hiddenTook = w.written, time.Now(), time.Since(begun)
	return w.hiddenOn
}

// pidNS names the PID namespace of a clone that runs.
func (c *clone) pidNS() string {
	ns, _ := os.Readlink("/proc/" + strconv.Itoa(c.task.PID()) + "/ns/pid")
	return ns
}
