package build

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

const (
	progressEvery = 100 * time.Millisecond
	maxLogFile    = 64 << 20 // bytes of a build log
	maxLogEvents  = 4 << 20  // bytes of it that the caller is sent
)

// output is where a build tells what happens: its caller by events, and its
// log file. It is safe for concurrent use; events come one at a time, and
// none after close.
type output struct {
	path string
	now  func() time.Time

	mu       sync.Mutex
	events   func(api.BuildEvent) // nil when closed
	file     *os.File
	logged   int64 // bytes in file
	sent     int64 // bytes of log in events
	progress *api.BuildEvent
	last     time.Time // when progress was sent
}

// openOutput makes the log file of build id and sends its id.
func openOutput(dir, id string, events func(api.BuildEvent)) (*output, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("make log directory: %w", err)
	}
	path := filepath.Join(dir, id+".log")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make build log: %w", err)
	}
	o := &output{path: path, now: time.Now, events: events, file: f}
	o.send(api.BuildEvent{Type: api.EventID, BuildID: id})
	return o, nil
}

// send is called with mu held, or before o is shared.
func (o *output) send(e api.BuildEvent) {
	if o.events != nil {
		o.events(e)
	}
}

// step says what begins.
func (o *output) step(name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.flushProgress()
	o.last = time.Time{}
	o.write(o.now().UTC().Format(time.RFC3339) + " == " + name + "\n")
	o.send(api.BuildEvent{Type: api.EventStep, Step: name})
}

// report says how far the step is. Of reports in quick succession the last
// one is sent, at the latest when the next step begins.
func (o *output) report(done, total int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.progress = &api.BuildEvent{Type: api.EventProgress, Done: done, Total: total}
	now := o.now()
	if now.Sub(o.last) >= progressEvery {
		o.last = now
		o.flushProgress()
	}
}

func (o *output) flushProgress() {
	if o.progress != nil {
		o.send(*o.progress)
	}
	o.progress = nil
}

// log takes whole lines.
func (o *output) log(lines string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.write(lines)
	if o.sent > maxLogEvents {
		return
	}
	if o.sent += int64(len(lines)); o.sent > maxLogEvents {
		lines = "(the rest of the log is not sent)\n"
	}
	o.send(api.BuildEvent{Type: api.EventLog, Log: strings.ToValidUTF8(strings.TrimSuffix(lines, "\n"), "?")})
}

// warn tells what is otherwise than the sources say.
func (o *output) warn(text string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.flushProgress()
	o.write("warning: " + text + "\n")
	o.send(api.BuildEvent{Type: api.EventWarning, Warning: text})
}

// note takes lines for the log file only.
func (o *output) note(lines string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.write(lines)
}

// write is called with mu held. A log that cannot be written (no space left)
// is no reason to fail a build: the caller has the lines.
func (o *output) write(lines string) {
	if o.file == nil || o.logged > maxLogFile {
		return
	}
	if o.logged += int64(len(lines)); o.logged > maxLogFile {
		lines = "(the log is cut here)\n"
	}
	_, _ = o.file.WriteString(lines)
}

// exec asks the caller to run a command. The token is the caller's alone: it is not logged.
func (o *output) exec(command string, env map[string]string, token string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.flushProgress()
	o.write("$ " + command + "\n")
	o.send(api.BuildEvent{Type: api.EventExec, Exec: command, Env: env, Token: token})
}

// close ends the events and the log file.
func (o *output) close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.flushProgress()
	o.events = nil
	if o.file == nil {
		return nil
	}
	err := o.file.Close()
	o.file = nil
	return err
}
