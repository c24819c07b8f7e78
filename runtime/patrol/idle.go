package patrol

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/logfile"
)

// lookAtUse looks at what changes slowly: memory, log files, who is connected.
func (p *Patrol) lookAtUse(ctx context.Context, targets []Target) {
	now := time.Now()
	for _, t := range targets {
		if t.PID == 0 {
			continue
		}
		if n, err := p.opts.Keeper.Memory(ctx, t.ID); err == nil {
			p.measured(t.ID, Usage{n, p.of(t.ID).Disk})
		}
		if err := logfile.Trim(t.Log, logfile.Max); err != nil {
			p.opts.Log.Warn("log not trimmed", "clone", t.ID, "error", err)
		}
		p.lookAtIdle(t, now)
	}
}

// lookAtIdle ends a clone that nobody has used for its idle time.
func (p *Patrol) lookAtIdle(t Target, now time.Time) {
	if t.IdleTTL == 0 {
		return
	}
	s, a := p.of(t.ID), activityOf(t.PID)
	if s.usedAt.IsZero() || a.since(s.activity) {
		s.usedAt, s.activity, s.warned = now, a, false
		return
	}
	s.activity.lowest(a)
	left := t.IdleTTL - now.Sub(s.usedAt)
	switch {
	case t.Protected:
	case left <= 0:
		p.opts.Keeper.Expire(t.ID, fmt.Sprintf("nobody was connected for %s", t.IdleTTL))
	case left <= t.Warning && !s.warned:
		s.warned = true
		p.opts.Keeper.Expiring(t.ID, fmt.Sprintf("nobody is connected: it ends in %s", left.Round(time.Second)))
	}
}

// activity is what a server shows of its use to its host. Who is connected by TCP is counted by
// the kernel per network namespace; who is by a unix socket makes one process or thread
// more in all servers that we know.
type activity struct {
	opened, open uint64 // TCP connections: accepted so far, and now
	tasks        int    // children and threads of the container's first process, and of its children: one of them may be the server
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
	var children []string
	a.tasks, children = tasksOf(strconv.Itoa(pid))
	for _, child := range children {
		n, _ := tasksOf(child)
		a.tasks += n
	}
	return a
}

// tasksOf counts children and threads of a process, and lists the children.
func tasksOf(pid string) (n int, children []string) {
	if text, err := os.ReadFile("/proc/" + pid + "/task/" + pid + "/children"); err == nil {
		children = strings.Fields(string(text))
	}
	threads, _ := os.ReadDir("/proc/" + pid + "/task") // one that has ended has none
	return len(children) + len(threads), children
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
