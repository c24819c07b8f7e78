// Package failpoint has steps of a daemon fail where its environment says. Only tests say so: the daemon is started by
// root, and nobody else can set its environment.
package failpoint

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Environment variables.
const (
	// Env is a comma-separated list of PART.STEP=ACTION[@N]: at the Nth
	// visit of the step, the first if N is not given, and at all later ones.
	Env = "CTRSNAPD_FAILPOINT"
	// VisitsEnv names a file that takes a line with the name of each failpoint when it is
	// visited first.
	VisitsEnv = "CTRSNAPD_FAILPOINT_VISITS"
)

// ErrInjected is what a step fails with.
var ErrInjected = errors.New("injected failure")

// actions are what can happen at a failpoint.
var actions = map[string]func() error{
	"error":   func() error { return ErrInjected },
	"nospace": func() error { return syscall.ENOSPC },
	"kill": func() error {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	},
}

// point is what happens at one step.
type point struct {
	act   func() error
	after int // visits that pass
}

// Set has steps of the parts of a daemon fail; nil none. It is safe for concurrent use.
type Set struct {
	mu     sync.Mutex
	points map[string]point
	visits map[string]int
	log    *os.File // nil: none
}

// FromEnv returns what the environment asks for, nil for nothing.
func FromEnv() (*Set, error) { return open(os.Getenv(Env), os.Getenv(VisitsEnv)) }

func open(list, visits string) (_ *Set, err error) {
	if list == "" && visits == "" {
		return nil, nil
	}
	f := &Set{points: map[string]point{}, visits: map[string]int{}}
	for _, s := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' }) {
		name, action, _ := strings.Cut(s, "=")
		action, nth, counted := strings.Cut(action, "@")
		p := point{act: actions[action], after: 0}
		if counted {
			p.after, err = strconv.Atoi(nth)
			p.after--
		}
		if p.act == nil || err != nil || p.after < 0 {
			return nil, fmt.Errorf("%s: %q is not PART.STEP=error|nospace|kill[@N]", Env, s)
		}
		f.points[name] = p
	}
	if visits != "" {
		f.log, err = os.OpenFile(visits, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	}
	return f, err
}

// Of returns the failpoint of one part, nil for none.
func (f *Set) Of(part string) func(step string) error {
	if f == nil {
		return nil
	}
	return func(step string) error { return f.Visit(part + "." + step) }
}

// Visit does what is to happen at a step, PART.STEP.
func (f *Set) Visit(name string) error {
	if f == nil {
		return nil
	}
	f.mu.Lock()
	f.visits[name]++
	n := f.visits[name]
	if n == 1 && f.log != nil {
		_, _ = f.log.WriteString(name + "\n")
	}
	p, ok := f.points[name]
	f.mu.Unlock()
	if !ok || n <= p.after {
		return nil
	}
	return p.act()
}
