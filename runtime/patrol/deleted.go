package patrol

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// deletedFiles finds files that clones have deleted and keep open, or mapped. They take room
// and are in no directory. What is on its way through a socket is not found.
type deletedFiles interface {
	// onRoot adds up those on the root filesystem of a clone, whose first process is pid, and
	// says how many open files were looked at.
	onRoot(pid int) (sum held, looked int)
}

// held is bytes and files of a filesystem.
type held struct{ bytes, files int64 }

// processes are the processes of clones, as paths in /proc, by PID namespace, as in
// /proc/PID/ns/pid. The kernel gives the number of a namespace that is gone to the next one:
// the list is good for a moment only.
type processes map[string][]string

// findDeleted lists the processes that there are now.
func findDeleted() deletedFiles {
	all := processes{}
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range procs {
		if ns, err := os.Readlink(filepath.Join(proc, "ns/pid")); err == nil {
			all[ns] = append(all[ns], proc)
		}
	}
	if own, err := os.Readlink("/proc/self/ns/pid"); err == nil {
		delete(all, own)
	}
	return all
}

func (ps processes) onRoot(pid int) (sum held, looked int) {
	var st unix.Stat_t
	if unix.Stat("/proc/"+strconv.Itoa(pid)+"/root", &st) != nil {
		return held{}, 0 // it has ended
	}
	return ps.on(st.Dev, pid)
}

// on is onRoot for a filesystem by its number.
func (ps processes) on(dev uint64, pid int) (sum held, looked int) {
	seen := map[uint64]bool{}
	ns, _ := os.Readlink("/proc/" + strconv.Itoa(pid) + "/ns/pid")
	for _, proc := range ps[ns] {
		paths, n := open(proc)
		looked += n
		for _, path := range paths {
			var st unix.Stat_t
			if unix.Stat(path, &st) != nil || st.Dev != dev || st.Nlink > 0 || seen[st.Ino] {
				continue
			}
			seen[st.Ino] = true
			sum.bytes += st.Blocks * 512
			sum.files++
		}
	}
	return sum, looked
}

// open lists what a process has open, and what it has mapped and seems to be deleted. It says
// how many files there were. See proc_pid_fd(5), proc_pid_maps(5), proc_pid_map_files(5);
// to ask for each mapping takes seven times as long as to read the list.
func open(proc string) (paths []string, looked int) {
	fds, _ := os.ReadDir(filepath.Join(proc, "fd")) // it may have ended
	for _, e := range fds {
		paths = append(paths, filepath.Join(proc, "fd", e.Name()))
	}
	maps, _ := os.ReadFile(filepath.Join(proc, "maps"))
	for line := range bytes.Lines(maps) {
		looked++
		if !bytes.HasSuffix(line, []byte(" (deleted)\n")) {
			continue
		}
		addresses, _, _ := bytes.Cut(line, []byte(" "))
		start, end, _ := strings.Cut(string(addresses), "-")
		paths = append(paths, filepath.Join(proc, "map_files", strings.TrimLeft(start, "0")+"-"+strings.TrimLeft(end, "0")))
	}
	return paths, looked + len(fds)
}
