package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Environment variables by which tests have the daemon fail where they want. The
// daemon is started by root: nobody else can set them.
const (
	// failpointEnv is a comma-separated list of PART.STEP=ACTION[@N]: at the Nth
	// visit of the step, the first if N is not given, and at all later ones.
	failpointEnv = "CTRSNAPD_FAILPOINT"
	// visitsEnv names a file that takes a line with the name of each failpoint when it is
	// visited first.
	visitsEnv = "CTRSNAPD_FAILPOINT_VISITS"
)

// errInjected is what a step fails with.
var errInjected = errors.New("injected failure")

// actions are what can happen at a failpoint.
var actions = map[string]func() error{
	"error":   func() error { return errInjected },
	"nospace": func() error { return syscall.ENOSPC },
	"kill": func() error {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	},
}

// failpoint is what happens at one step.
type failpoint struct {
	act   func() error
	after int // visits that pass
}

// failpoints fail steps of the parts. nil fails none. It is safe for concurrent use.
type failpoints struct {
	mu     sync.Mutex
	points map[string]failpoint
	visits map[string]int
	log    *os.File // nil: none
}

// openFailpoints returns what a list and a file name ask for, nil for nothing.
func openFailpoints(list, visits string) (_ *failpoints, err error) {
	if list == "" && visits == "" {
		return nil, nil
	}
	f := &failpoints{points: map[string]failpoint{}, visits: map[string]int{}}
	for _, s := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' }) {
		name, action, _ := strings.Cut(s, "=")
		action, nth, counted := strings.Cut(action, "@")
		p := failpoint{act: actions[action], after: 0}
		if counted {
			p.after, err = strconv.Atoi(nth)
			p.after--
		}
		if p.act == nil || err != nil || p.after < 0 {
			return nil, fmt.Errorf("%s: %q is not PART.STEP=error|nospace|kill[@N]", failpointEnv, s)
		}
		f.points[name] = p
	}
	if visits != "" {
		f.log, err = os.OpenFile(visits, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	}
	return f, err
}

// of returns the failpoint of one part, nil for none.
func (f *failpoints) of(part string) func(step string) error {
	if f == nil {
		return nil
	}
	return func(step string) error { return f.visit(part + "." + step) }
}

func (f *failpoints) visit(name string) error {
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
