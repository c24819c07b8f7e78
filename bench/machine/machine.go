// Package machine describes the machine that a benchmark runs on, and how busy
// others keep it.
package machine

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/bench"
)

const (
	// sample is how long the machine is watched while the run waits.
	sample = 500 * time.Millisecond
	// patience is how long it may take until what the run itself has left is over: pages
	// are written back, clones removed.
	patience = 5 * time.Second
)

// Rest waits until hardly anything works, but not long.
func Rest(ctx context.Context) {
	for end := time.Now().Add(patience); busy(ctx) > bench.NoisyFrom && time.Now().Before(end) && ctx.Err() == nil; {
	}
}

// Before describes the machine with the storage at dir, and watches for half a
// second how busy it is.
func Before(ctx context.Context, dir string, reflink bool, versions map[string]string) (bench.Machine, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return bench.Machine{}, fmt.Errorf("read kernel version: %w", err)
	}
	m := bench.Machine{
		OS: field("/etc/os-release", "PRETTY_NAME", "="), Kernel: unix.ByteSliceToString(uts.Release[:]),
		Arch: runtime.GOARCH, CPU: field("/proc/cpuinfo", "model name", ":"), CPUs: runtime.NumCPU(),
		MemoryBytes: Memory("MemTotal"), Filesystem: filesystem(dir), StorageFree: Free(dir), Reflink: reflink, Versions: versions,
		LoadBefore: load(),
	}
	m.BusyBefore = busy(ctx)
	return m, nil
}

// After adds to m how busy the machine is when the run is over.
func After(ctx context.Context, m *bench.Machine) {
	m.LoadAfter, m.BusyAfter = load(), busy(ctx)
}

// Memory returns an entry of /proc/meminfo in bytes, 0 if it is not there.
func Memory(entry string) int64 {
	kib, _, _ := strings.Cut(field("/proc/meminfo", entry, ":"), " ")
	n, _ := strconv.ParseInt(kib, 10, 64)
	return n << 10
}

// field returns the value of the first line of a file that begins with key.
func field(path, key, separator string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		k, v, ok := strings.Cut(lines.Text(), separator)
		if ok && strings.TrimSpace(k) == key {
			return strings.Trim(strings.TrimSpace(v), `"`)
		}
	}
	return ""
}

// filesystem names the filesystem of dir by the numbers of statfs(2).
func filesystem(dir string) string {
	var s unix.Statfs_t
	if unix.Statfs(dir, &s) != nil {
		return ""
	}
	names := map[int64]string{
		unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.EXT4_SUPER_MAGIC: "ext4",
		unix.TMPFS_MAGIC: "tmpfs", unix.OVERLAYFS_SUPER_MAGIC: "overlay",
	}
	if name, ok := names[int64(s.Type)]; ok { //nolint:unconvert // the type of Type depends on the architecture
		return name
	}
	return fmt.Sprintf("%#x", s.Type)
}

// Free is what the filesystem of dir has left, in bytes.
func Free(dir string) int64 {
	var s unix.Statfs_t
	if unix.Statfs(dir, &s) != nil {
		return 0
	}
	return int64(s.Bavail) * s.Bsize
}

// CPUTime is how long all processors together have worked since boot.
func CPUTime() time.Duration {
	used, _ := ticks()
	return time.Duration(used) * (time.Second / userHz)
}

// userHz is what the kernel counts ticks in, for everybody who asks: see time(7).
const userHz = 100

func load() (l [3]float64) {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return l
	}
	_, _ = fmt.Sscan(string(b), &l[0], &l[1], &l[2]) // zeros say that it is unknown
	return l
}

// busy returns the share of the CPUs that is used for half a second.
func busy(ctx context.Context) float64 {
	used0, all0 := ticks()
	timer := time.NewTimer(sample)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	used, all := ticks()
	if all <= all0 {
		return 0
	}
	return float64(used-used0) / float64(all-all0)
}

// ticks returns the used and all clock ticks since boot: see proc_stat(5).
// Stolen ones count as used.
func ticks() (used, all uint64) {
	b, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(b), "\n")
	for i, f := range strings.Fields(strings.TrimPrefix(line, "cpu ")) {
		n, _ := strconv.ParseUint(f, 10, 64)
		if i >= 8 { // guest time is part of user time
			break
		}
		all += n
		if i != 3 && i != 4 { // idle, iowait
			used += n
		}
	}
	return used, all
}
