package manager

import (
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// hiddenIn adds up the files of the filesystem dev that processes have open, or mapped, though
// they are in no directory, by the PID namespace of the processes, as in /proc/PID/ns/pid. It
// looks at all processes of the host. What is on its way through a socket is not seen.
func hiddenIn(dev uint64) map[string]held {
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
		for _, path := range open(proc) {
			var st unix.Stat_t
			if unix.Stat(path, &st) != nil || st.Dev != dev || st.Nlink > 0 || seen[file{ns, st.Ino}] {
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

// pidNS names the PID namespace of a clone that runs.
func (c *clone) pidNS() string {
	ns, _ := os.Readlink("/proc/" + strconv.Itoa(c.task.PID()) + "/ns/pid")
	return ns
}
