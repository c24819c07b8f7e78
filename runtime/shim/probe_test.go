package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// probePath is where containers of tests have this test's program, which then
// tells what it sees.
const probePath = "/probe"

// probe prints what a container is like as seen from inside.
func probe() error {
	seen := map[string]string{}
	for _, f := range []func(map[string]string) error{
		probeFiles, probeStatus, probeMounts, probeNamespaces, probeDevices, probeProtected, probeProcess,
	} {
		if err := f(seen); err != nil {
			return err
		}
	}
	probeCalls(seen)
	return json.NewEncoder(os.Stdout).Encode(seen)
}

// probeFiles goes first, before Go opens some of its own.
func probeFiles(seen map[string]string) error {
	entries, err := os.ReadDir("/proc/1/fd")
	for _, e := range entries {
		if to, err := os.Readlink("/proc/1/fd/" + e.Name()); err == nil && !strings.HasPrefix(to, "/proc/") && !strings.HasPrefix(to, "anon_inode:") {
			kind, _, _ := strings.Cut(to, ":")
			if st, err := os.Stat("/proc/1/fd/" + e.Name()); kind == to && err == nil && st.Mode()&os.ModeNamedPipe != 0 {
				kind = "fifo"
			}
			seen["fd "+e.Name()] = kind
		}
	}
	return err
}

func probeStatus(seen map[string]string) error {
	b, err := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch k {
		case "Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp",
			"Seccomp_filters", "Umask", "NSpid", "Speculation_Store_Bypass", "SigBlk", "SigIgn", "NSpgid", "NSsid":
			seen["status "+k] = strings.TrimSpace(v)
		}
	}
	limits, lerr := os.ReadFile("/proc/self/limits")
	seen["limits"] = string(limits)
	return errors.Join(err, lerr)
}

func probeMounts(seen map[string]string) error {
	b, err := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		_, fs, _ := strings.Cut(line, " - ")
		super := strings.Fields(fs)
		root := regexp.MustCompile(`/diff-\w+`).ReplaceAllString(f[3], "/ID")
		options := regexp.MustCompile(`/diff-\w+`).ReplaceAllString(strings.ReplaceAll(super[2], "lowerdir+=", "lowerdir="), "/ID")
		seen["mount "+f[4]] = strings.Join([]string{root, f[5], super[0], options}, " ")
	}
	return err
}

func probeNamespaces(seen map[string]string) error {
	entries, err := os.ReadDir("/proc/self/ns")
	for _, e := range entries {
		to, _ := os.Readlink("/proc/self/ns/" + e.Name())
		seen["ns "+e.Name()] = to
	}
	cgroups, cerr := os.ReadFile("/proc/self/cgroup")
	seen["cgroup"] = regexp.MustCompile(`/diff-\w+`).ReplaceAllString(string(cgroups), "/ID")
	for _, f := range []string{"memory/memory.limit_in_bytes", "pids/pids.max", "cpu/cpu.cfs_quota_us", "cpu/cpu.shares", "devices/devices.list", "cpuset/cpuset.cpus"} {
		b, err := os.ReadFile("/sys/fs/cgroup/" + f)
		seen["cgroup "+f] = fmt.Sprint(string(b), err)
	}
	return errors.Join(err, cerr)
}

func probeDevices(seen map[string]string) error {
	return filepath.WalkDir("/dev", func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		to, _ := os.Readlink(p)
		err = unix.Lstat(p, &st)
		seen["dev "+p] = fmt.Sprintf("%o %d:%d %d %x %s", st.Mode, st.Uid, st.Gid, st.Nlink, st.Rdev, to)
		return err
	})
}

// probeProtected tries what masked and read-only paths are to prevent.
func probeProtected(seen map[string]string) error {
	for _, p := range []string{"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware", "/etc", "/proc/interrupts"} {
		if entries, err := os.ReadDir(p); err == nil {
			seen["read "+p] = fmt.Sprint(len(entries), " entries")
			continue
		}
		b, err := os.ReadFile(p)
		seen["read "+p] = fmt.Sprint(len(b) > 0, err)
	}
	for _, p := range []string{"/proc/sys/kernel/domainname", "/proc/sysrq-trigger", "/sys/kernel/mm/transparent_hugepage/enabled", "/new", "/dev/new", "/dev/shm/new", "/etc/new", "/data/new"} {
		f, err := os.OpenFile(p, os.O_WRONLY|os.O_CREATE, 0o600)
		if err == nil {
			f.Close()
		}
		seen["write "+p] = fmt.Sprint(err)
	}
	return nil
}

func probeProcess(seen map[string]string) error {
	host, err := os.Hostname()
	cwd, cerr := os.Getwd()
	score, serr := os.ReadFile("/proc/self/oom_score_adj")
	seen["process"] = fmt.Sprint(host, cwd, os.Getpid(), os.Args, os.Environ(), string(score))
	return errors.Join(err, cerr, serr)
}

// left are calls that would end, stop or confuse the probe.
var left = map[uintptr]bool{
	unix.SYS_READ: true, unix.SYS_CLOSE: true, unix.SYS_RT_SIGRETURN: true, unix.SYS_SELECT: true, unix.SYS_PAUSE: true, unix.SYS_FORK: true,
	unix.SYS_VFORK: true, unix.SYS_CLONE: true, unix.SYS_EXIT: true, unix.SYS_PTRACE: true, unix.SYS_RT_SIGSUSPEND: true,
	unix.SYS_EXIT_GROUP: true, unix.SYS_PSELECT6: true, unix.SYS_PPOLL: true, unix.SYS_SECCOMP: true, unix.SYS_CLOSE_RANGE: true,
	unix.SYS_RESTART_SYSCALL: true, unix.SYS_EPOLL_PWAIT: true, unix.SYS_EPOLL_PWAIT2: true, unix.SYS_SYNC: true,
	unix.SYS_RT_SIGPROCMASK: true, unix.SYS_SIGALTSTACK: true, unix.SYS_VHANGUP: true, unix.SYS_BRK: true, unix.SYS_DUP2: true,
	unix.SYS_SHUTDOWN: true, unix.SYS_SETSID: true, unix.SYS_KILL: true, unix.SYS_UMASK: true, unix.SYS_READV: true,
	unix.SYS_URETPROBE: true, unix.SYS_URETPROBE + 1: true, unix.SYS_GETPPID: true, unix.SYS_GETPGRP: true, unix.SYS_SCHED_SETAFFINITY: true, unix.SYS_SETRESUID: true, unix.SYS_SETUID: true,
}

// probeCalls makes each system call with arguments of zero, and a few with others
// that profiles tell apart.
func probeCalls(seen map[string]string) {
	try := func(name string, nr uintptr, args ...uintptr) {
		var a [6]uintptr
		copy(a[:], args)
		_, _, errno := syscall.RawSyscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
		seen["call "+name] = fmt.Sprint(int(errno))
	}
	for nr := range uintptr(480) {
		if !left[nr] {
			try(fmt.Sprint(nr), nr)
		}
	}
	for _, p := range []uintptr{8, 0x20000, 0x20008, 0xffffffff, 0x400000, 0x100000000} {
		try(fmt.Sprintf("personality %x", p), unix.SYS_PERSONALITY, p)
	}
	for family := range uintptr(46) {
		try(fmt.Sprintf("socket %d", family), unix.SYS_SOCKET, family, 99)
	}
	try("socket wide", unix.SYS_SOCKET, 1<<32|40, 99)
	for _, bit := range []uintptr{
		unix.CLONE_NEWNS, unix.CLONE_NEWCGROUP, unix.CLONE_NEWUTS, unix.CLONE_NEWIPC, unix.CLONE_NEWUSER, unix.CLONE_NEWPID, unix.CLONE_NEWNET,
	} {
		try(fmt.Sprintf("clone %x", bit), unix.SYS_CLONE, bit|unix.CLONE_SIGHAND) // invalid without CLONE_VM
		try(fmt.Sprintf("unshare %x", bit), unix.SYS_UNSHARE, bit|1)
	}
	try("ptrace", unix.SYS_PTRACE, 9999)
	try("new", 9999)
	try("x32", 0x40000000|39)
}
