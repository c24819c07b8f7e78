package manager

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// maxLog is how large the log of a clone may become, in bytes. Then its older half goes.
const maxLog = 64 << 20

// uses looks at what changes slowly: memory, log files, who is connected.
func (w *watcher) uses(clones []*clone) {
	now := time.Now()
	for _, c := range clones {
		if c.isDead() {
			continue
		}
		if n, err := c.task.Memory(w.ctx); err == nil {
			c.memory.Store(n)
			w.quota.Measured(c.id, n, c.disk.Load())
		}
		if err := trimLog(w.logPath(c.id), maxLog); err != nil {
			w.log.Warn("log not trimmed", "clone", c.id, "error", err)
		}
		w.idle(c, now)
	}
}

// idle ends a clone that nobody has used for its idle time.
func (w *watcher) idle(c *clone, now time.Time) {
	w.mu.Lock()
	ttl, kept := time.Duration(c.rec.IdleTTL), c.rec.Protected
	w.mu.Unlock()
	if ttl == 0 {
		return
	}
	a := activityOf(c.task.PID())
	if c.used.IsZero() || a.since(c.activity) {
		c.used, c.activity, c.warnedIdle = now, a, false
		return
	}
	c.activity.lowest(a)
	left := ttl - now.Sub(c.used)
	switch {
	case kept:
	case left <= 0:
		w.expireClone(c, fmt.Sprintf("nobody was connected for %s", ttl))
	case left <= warning(ttl) && !c.warnedIdle:
		c.warnedIdle = true
		w.emit(access.Daemon, api.EventCloneExpiring, c, fmt.Sprintf("nobody is connected: it ends in %s", left.Round(time.Second)))
	}
}

// warning is how long before its end a clone's user is warned.
func warning(ttl time.Duration) time.Duration { return min(ttl/10, 5*time.Minute) }

// activity is what a server shows of its use to its host. Who is connected by TCP is counted by
// the kernel per network namespace; who is by a unix socket makes one process or thread
// more in all servers that we know.
type activity struct {
	opened, open uint64 // TCP connections: accepted so far, and now
	tasks        int    // children and threads of the server's first process
}

// since says whether the server is used, or has been since an earlier look.
func (a activity) since(before activity) bool {
	return a.open > 0 || a.opened != before.opened || a.tasks > before.tasks
}

// lowest remembers how few tasks a server has that nobody uses.
func (a *activity) lowest(now activity) { a.tasks = min(a.tasks, now.tasks) }

// activityOf looks at the server whose first process is pid. See proc_pid_net(5) and
// proc_tid_children(5).
func activityOf(pid int) (a activity) {
	dir := "/proc/" + strconv.Itoa(pid)
	if snmp, err := os.ReadFile(dir + "/net/snmp"); err == nil {
		a.opened, a.open = tcpCounters(snmp)
	}
	if children, err := os.ReadFile(dir + "/task/" + strconv.Itoa(pid) + "/children"); err == nil {
		a.tasks = len(bytes.Fields(children))
	}
	if threads, err := os.ReadDir(dir + "/task"); err == nil {
		a.tasks += len(threads)
	}
	return a
}

// tcpCounters returns PassiveOpens and CurrEstab: a line of names is followed by one of values.
func tcpCounters(snmp []byte) (opened, open uint64) {
	var names []string
	for line := range strings.Lines(string(snmp)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "Tcp:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		for i, v := range fields[:min(len(fields), len(names))] {
			n, _ := strconv.ParseUint(v, 10, 64)
			switch names[i] {
			case "PassiveOpens":
				opened = n
			case "CurrEstab":
				open = n
			}
		}
	}
	return opened, open
}

// trimLog frees the older half of a log that has become larger than limit on disk. What is left
// stays where it is, and who writes goes on doing so: see fallocate(2), FALLOC_FL_PUNCH_HOLE.
// What is less than a block would be overwritten with zeros.
func trimLog(path string, limit int64) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Blocks*512 <= limit {
		return nil //nolint:nilerr // the clone is going just now
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, (st.Size-limit/2)&^4095)
}

// afterHole moves to the first byte of a log that is there still.
func afterHole(f *os.File) (int64, error) {
	at, err := f.Seek(0, unix.SEEK_DATA)
	if err != nil { // there is none, or the filesystem cannot tell
		return f.Seek(0, 0)
	}
	return at, nil
}
