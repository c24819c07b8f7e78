package main_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// faultMemory has a clone need more memory than it may have: its query fails, and nobody else's.
func faultMemory(t *testing.T, d *daemon) {
	c := cloneJSON(t, d, "shop", "--name", "hungry", "--memory", "96MiB")
	defer d.try(nil, "rm", "hungry")
	if _, err := tryQuery(c.URL, "SELECT length(string_agg(repeat(md5(g::text), 100), '')) FROM generate_series(1, 100000) g"); err == nil {
		t.Error("a clone used more memory than its limit")
	} else {
		t.Log(err)
	}
	d.run("inspect", "hungry")
}

// faultPids has a clone need more processes than it may have: connections are refused, and
// taken again when others have ended.
func faultPids(t *testing.T, d *daemon) {
	c := cloneJSON(t, d, "shop", "--name", "crowded", "--pids", "16")
	defer d.run("rm", "crowded")
	var refused atomic.Int32
	var wg sync.WaitGroup
	for range 24 {
		wg.Go(func() {
			if _, err := tryQuery(c.URL, "SELECT pg_sleep(2)"); err != nil {
				refused.Add(1)
			}
		})
	}
	wg.Wait()
	if refused.Load() == 0 {
		t.Error("a clone has more processes than its limit")
	}
	t.Logf("%d of 24 connections refused", refused.Load())
	// A server's process outlives its connection: there is room once they have ended.
	waitFor(t, "a connection to be taken", func() bool {
		_, err := tryQuery(c.URL, "SELECT 1")
		return err == nil
	})
}

// faultDescriptors leaves the daemon descriptors to take a request with, and none to make a clone.
func faultDescriptors(t *testing.T, d *daemon) {
	waitFor(t, "what was removed to be gone", func() bool { return len(d.orphans("--dry-run")) == 0 })
	d.mu.Lock()
	pid := d.cmd.Process.Pid
	d.mu.Unlock()
	var was unix.Rlimit
	do(t, unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &was))
	few := was
	few.Cur = freeDescriptors(t, pid, 3)
	do(t, unix.Prlimit(pid, unix.RLIMIT_NOFILE, &few, nil))
	defer func() { do(t, unix.Prlimit(pid, unix.RLIMIT_NOFILE, &was, nil)) }()
	r := d.try(nil, "clone", "shop", "--name", "failed")
	t.Logf("exit code %d: %s", r.code, r.stderr)
	if r.code != 5 || !strings.Contains(r.stderr, "too many open files") {
		t.Errorf("exit code %d", r.code)
	}
}

// freeDescriptors returns the limit by which a process can open n more files: it is one of
// numbers, and those that are in use above it count no more.
func freeDescriptors(t *testing.T, pid int, n uint64) (limit uint64) {
	t.Helper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	do(t, err)
	used := map[string]bool{}
	for _, f := range open {
		used[f.Name()] = true
	}
	for ; n > 0; limit++ {
		if !used[strconv.FormatUint(limit, 10)] {
			n--
		}
	}
	return limit
}

// faultState leaves no space, and then no inodes, where all is kept that is of this boot.
func faultState(t *testing.T, d *daemon) {
	dir := d.state
	for _, option := range []string{"size", "nr_inodes"} {
		waitFor(t, "what was removed to be gone", func() bool { return len(d.orphans("--dry-run")) == 0 })
		var st unix.Statfs_t
		do(t, unix.Statfs(dir, &st))
		if st.Type != unix.TMPFS_MAGIC {
			t.Fatalf("%s is no tmpfs", dir)
		}
		used, all := int64(st.Blocks-st.Bfree)*st.Bsize, int64(st.Blocks)*st.Bsize
		if option == "nr_inodes" {
			used, all = int64(st.Files-st.Ffree), int64(st.Files)
		}
		do(t, unix.Mount("", dir, "", unix.MS_REMOUNT, fmt.Sprintf("%s=%d", option, used)))
		r := d.try(nil, "clone", "shop", "--name", "failed")
		do(t, unix.Mount("", dir, "", unix.MS_REMOUNT, fmt.Sprintf("%s=%d", option, all)))
		t.Logf("%s=%d: exit code %d: %s", option, used, r.code, r.stderr)
		if r.code != 5 || !strings.Contains(r.stderr, "no space") {
			t.Errorf("%s: exit code %d", option, r.code)
		}
	}
}
