package publish

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// stateListen is TCP_LISTEN of the kernel's tcp_states.h, as /proc/net/tcp has it.
const stateListen = "0A"

// owner says who listens where an address cannot be had, as in "postgres (pid
// 812)"; "" if that is not known: a port may also be held without listening, or
// in another PID namespace.
func owner(a Address) string {
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		inode := listenerAt(table, a)
		if inode == "" {
			continue
		}
		if who := holder("socket:[" + inode + "]"); who != "" {
			return who
		}
	}
	return ""
}

// listenerAt returns the inode of a socket that listens at an address, or at all.
// See proc_net(5).
func listenerAt(table string, a Address) (inode string) {
	f, err := os.Open(table)
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text()) // sl local remote st queues timer retransmits uid timeout inode
		if len(fields) < 10 || fields[3] != stateListen {
			continue
		}
		at, ok := parseProc(fields[1])
		if ok && at.Port() == a.Port && (!a.IP.IsValid() || at.Addr().IsUnspecified() || at.Addr() == a.IP) {
			return fields[9]
		}
	}
	return ""
}

// parseProc reads an address as the kernel prints it: words of 32 bits in the
// host's byte order (all that Go runs on here is little endian), and the port.
func parseProc(s string) (netip.AddrPort, bool) {
	ip, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(ip)
	if err != nil || len(b)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for word := range slices.Chunk(b, 4) {
		slices.Reverse(word)
	}
	addr, ok := netip.AddrFromSlice(b)
	n, err := strconv.ParseUint(port, 16, 16)
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), ok && err == nil //nolint:gosec // it has 16 bits
}

// holder finds a process that has a socket open.
func holder(socket string) string {
	files, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return ""
	}
	for _, f := range files {
		if target, err := os.Readlink(f); err != nil || target != socket {
			continue
		}
		process := filepath.Dir(filepath.Dir(f))
		name, err := os.ReadFile(filepath.Join(process, "comm"))
		if err == nil {
			return fmt.Sprintf("%s (pid %s)", strings.TrimSpace(string(name)), filepath.Base(process))
		}
	}
	return ""
}
