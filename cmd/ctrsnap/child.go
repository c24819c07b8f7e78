package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// forwarded are the signals that run passes on to its command.
var forwarded = []os.Signal{
	syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH,
}

// findCommand returns the path of a command. The error carries the exit code.
func findCommand(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil || errors.Is(err, exec.ErrDot) { // who has . in PATH wants it
		return path, nil
	}
	return "", cannotRun(name, err)
}

// cannotRun returns the error of a command that was not started.
func cannotRun(name string, err error) error {
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return &codeError{exitNotFound, fmt.Errorf("%s: command not found", name)}
	}
	var e syscall.Errno
	if errors.As(err, &e) {
		err = e
	}
	return &codeError{exitNotExecuted, fmt.Errorf("%s: cannot be executed: %w", name, err)}
}

// child is the command of a run. It has our standard streams and our process
// group, so that job control of a shell works on both at once.
type child struct {
	path  string
	args  []string
	env   []string
	files []*os.File
}

// run starts the command and waits for it. onLost is called when lost is closed meanwhile, and says whether that is to
// end the command, as SIGTERM does; code is then that of SIGTERM, whatever the command makes of it. told says that the
// command was asked to end, by a signal to us or for its loss.
//
// The kernel sends the command SIGTERM when we die: its database ends then, and
// what it does from there on is void. That signal comes when the thread dies
// that started the command, so this one is kept; see PR_SET_PDEATHSIG in prctl(2).
func (c *child) run(lost <-chan struct{}, onLost func() (end bool)) (code int, told bool, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, notIgnored(forwarded...)...)
	defer signal.Stop(signals)
	p, err := os.StartProcess(c.path, c.args, &os.ProcAttr{
		Env: c.env, Files: c.files, Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM},
	})
	if err != nil {
		return 0, false, cannotRun(c.args[0], err)
	}
	ended := make(chan struct{})
	var state *os.ProcessState
	go func() {
		defer close(ended)
		state, err = p.Wait()
	}()
	ending := false
	for {
		select {
		case s := <-signals:
			told = told || s == syscall.SIGINT || s == syscall.SIGTERM || s == syscall.SIGHUP
			if !fromTerminal(s) {
				_ = p.Signal(s) // it may have ended
			}
		case <-lost:
			lost = nil
			if ending = onLost(); ending {
				_ = p.Signal(syscall.SIGTERM) // it may have ended
			}
		case <-ended:
			if err != nil {
				return 0, told, fmt.Errorf("wait for %s: %w", c.args[0], err)
			}
			if ending {
				return 128 + int(syscall.SIGTERM), true, nil
			}
			return waitCode(state), told, nil
		}
	}
}

// fromTerminal says whether the command has had the signal too: a terminal
// sends those of its keys and its size to the whole foreground process group.
// Who sends us one of them by kill while we are in the foreground of a terminal
// is taken for the terminal; a command must not see ^C twice.
func fromTerminal(s os.Signal) bool {
	if s != syscall.SIGINT && s != syscall.SIGQUIT && s != syscall.SIGWINCH {
		return false
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDONLY|syscall.O_NOCTTY, 0)
	if err != nil {
		return false // no terminal controls us
	}
	defer tty.Close()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == syscall.Getpgrp()
}
