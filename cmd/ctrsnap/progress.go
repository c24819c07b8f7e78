package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// progress shows what a build does: on a terminal one line per step with a
// bar, elsewhere one plain line per step. It is safe for concurrent use.
type progress struct {
	w     io.Writer
	fd    int // of the terminal, or -1
	quiet bool

	mu    sync.Mutex
	step  string
	since time.Time
	drawn bool // the step's line is on the terminal, unfinished
}

// newProgress shows progress on f, with bars if it is a terminal and no job's log.
func newProgress(f *os.File, quiet bool, getenv func(string) string) *progress {
	p := &progress{w: f, fd: -1, quiet: quiet}
	if term.IsTerminal(int(f.Fd())) && getenv("CI") == "" && getenv("NO_COLOR") == "" && getenv("TERM") != "dumb" {
		p.fd = int(f.Fd())
	}
	return p
}

// event shows what an event says.
func (p *progress) event(e api.BuildEvent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e.Type {
	case api.EventStep:
		p.begin(e.Step)
	case api.EventProgress:
		p.draw(e.Done, e.Total)
	case api.EventWarning: // also where progress is not wanted
		p.finish()
		fmt.Fprintln(p.w, "warning: "+oneLine(e.Warning))
	case api.EventExec:
		p.begin("run " + e.Exec)
		p.finish() // the command's output follows
	}
}

// end finishes the line of the last step.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finish()
}

func (p *progress) begin(step string) {
	p.finish()
	p.step, p.since = oneLine(step), time.Now()
	switch {
	case p.quiet:
	case p.fd < 0:
		fmt.Fprintln(p.w, p.step)
	default:
		p.draw(0, 0)
	}
}

const barWidth = 24

// draw puts the step's line on the terminal, over what was there of it.
func (p *progress) draw(done, total int64) {
	if p.quiet || p.fd < 0 || p.step == "" {
		return
	}
	line := p.step
	switch {
	case total > 0:
		done = min(max(done, 0), total)
		n := int(done * barWidth / total)
		line += fmt.Sprintf("  [%s%s] %3d%%", strings.Repeat("=", n), strings.Repeat(" ", barWidth-n), done*100/total)
	case done > 0:
		line += fmt.Sprintf("  %d", done)
	}
	p.print(line)
	p.drawn = true
}

// finish leaves the step's line behind, with how long it took.
func (p *progress) finish() {
	if !p.drawn {
		return
	}
	p.print(fmt.Sprintf("%s  %.1fs", p.step, time.Since(p.since).Seconds()))
	fmt.Fprintln(p.w)
	p.drawn = false
}

// print replaces the current line; one that were longer than the terminal is
// wide would not be replaced.
func (p *progress) print(line string) {
	if width, _, err := term.GetSize(p.fd); err == nil && width > 1 {
		if r := []rune(line); len(r) >= width {
			line = string(r[:width-1])
		}
	}
	fmt.Fprint(p.w, "\r\x1b[K"+line)
}
