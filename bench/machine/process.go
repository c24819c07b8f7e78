package machine

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// ProcessMemory returns the memory of a process in bytes, what it shares with others
// counted in part: Pss of proc_pid_smaps(5).
func ProcessMemory(pid int) (int64, error) {
	path := fmt.Sprintf("/proc/%d/smaps_rollup", pid)
	kib, _, _ := strings.Cut(field(path, "Pss", ":"), " ")
	n, err := strconv.ParseInt(kib, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", path, err)
	}
	return n << 10, nil
}

// ProcessCPU returns how long a process has worked: see proc_pid_stat(5).
func ProcessCPU(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := bytes.Cut(b, []byte(") ")) // the name may hold spaces
	f := strings.Fields(string(rest))
	if len(f) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(f))
	}
	sum := 0
	for _, ticks := range f[11:13] { // utime, stime
		n, err := strconv.Atoi(ticks)
		if err != nil {
			return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		sum += n
	}
	return time.Duration(sum) * (time.Second / userHz), nil
}

// ProcessesIn returns the processes of a program whose command line or working
// directory names a place below dir.
func ProcessesIn(program, dir string) ([]int, error) {
	exes, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, exe := range exes {
		target, err := os.Readlink(exe)
		if err != nil || filepath.Base(target) != program {
			continue // it ended, or is a thread of the kernel
		}
		proc := filepath.Dir(exe)
		line, _ := os.ReadFile(proc + "/cmdline")
		wd, _ := os.Readlink(proc + "/cwd")
		if !strings.Contains(string(line)+wd, dir+"/") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(proc))
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}
