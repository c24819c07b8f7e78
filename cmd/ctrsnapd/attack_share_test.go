package main_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestAttackShare: alice takes all that there is of something that everybody needs. Bob and root notice nothing.
func TestAttackShare(t *testing.T) {
	t.Parallel()
	d := newTarget(t, "")
	if r := d.tryAs(alice, "ls"); r.code != 0 { // puts the program where she reaches it
		t.Fatal(r.stderr)
	}
	t.Run("connections", func(t *testing.T) { attackConnections(t, d) })
	t.Run("builds", func(t *testing.T) { attackBuildTurns(t, d) })
	t.Run("key", func(t *testing.T) { attackKey(t, d) })
}

// attackConnections has alice follow events as often as she can.
func attackConnections(t *testing.T, d *daemon) {
	const many = 5000
	sockets := make([]*os.File, 0, many)
	defer func() {
		for _, f := range sockets {
			f.Close()
		}
	}()
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread is alice's from here on, and ends with the goroutine
		failed <- func() error {
			for _, call := range [][2]uintptr{{unix.SYS_SETGROUPS, 0}, {unix.SYS_SETRESGID, nogroup}, {unix.SYS_SETRESUID, alice}} {
				ids := [3]uintptr{call[1], call[1], call[1]}
				if call[0] == unix.SYS_SETGROUPS {
					ids = [3]uintptr{}
				}
				if _, _, errno := syscall.RawSyscall(call[0], ids[0], ids[1], ids[2]); errno != 0 {
					return errno
				}
			}
			for range many {
				fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					return err
				}
				sockets = append(sockets, os.NewFile(uintptr(fd), "socket"))
				if err := unix.Connect(fd, &unix.SockaddrUnix{Name: filepath.Join(d.state, "ctrsnap.sock")}); err != nil {
					return err
				}
				const request = "GET /v1/events?follow=true HTTP/1.1\r\nHost: ctrsnap\r\n\r\n"
				if _, err := unix.Write(fd, []byte(request)); err != nil && !errors.Is(err, unix.EPIPE) {
					return err
				}
			}
			return nil
		}()
	}()
	do(t, <-failed)
	last, err := net.FileConn(sockets[len(sockets)-1])
	do(t, err)
	defer last.Close()
	do(t, last.SetReadDeadline(time.Now().Add(time.Minute)))
	answer, err := http.ReadResponse(bufio.NewReader(last), nil)
	if err != nil || answer.StatusCode != http.StatusTooManyRequests {
		t.Fatalf("the last of %d connections: %v, %v", many, answer, err)
	}
	defer answer.Body.Close()
	if r := d.tryAs(bob, "clone", "shop"); r.code != 0 {
		t.Errorf("bob's clone: %s", r.stderr)
	}
	d.run("doctor")
	fails(t, fmt.Sprintf("%d connections", many), "ctrsnap: some are refused, and others are served")
}

// attackBuildTurns has alice's builds wait for commands that do not end.
func attackBuildTurns(t *testing.T, d *daemon) {
	const builds = 3
	ended := make(chan result, builds)
	for i := range builds {
		go func() {
			ended <- d.tryAs(alice, "golden", "build", fmt.Sprintf("idle%d", i), "--parent=shop", "--timeout=50s", "--exec", "sleep 1000")
		}()
	}
	waitFor(t, "alice's builds", func() bool {
		list, _ := os.ReadDir(filepath.Join(d.state, "builds"))
		return len(list) >= builds || len(ended) > 0
	})
	if len(ended) > 0 {
		t.Errorf("alice's build: %s", (<-ended).stderr)
		ended <- result{code: 1}
	}
	file := d.file("bob.sql", "SELECT 1;")
	if r := d.tryAs(bob, "golden", "build", "bobs", "--parent=shop", "--init", file); r.code != 0 {
		t.Errorf("bob's build: %s", r.stderr)
	} else {
		fails(t, fmt.Sprintf("%d builds that wait for ever", builds), "ctrsnap: bob's is worked on")
	}
	for range builds {
		if r := <-ended; r.code == 0 {
			t.Error("a command that does not end has ended")
		}
	}
}

// attackKey has alice build what bob will look for, with a function of hers in it.
func attackKey(t *testing.T, d *daemon) {
	key := d.file("key.sql", "CREATE TABLE mine (id int);")
	args := []string{"golden", "build", "bobs-app", "--parent=shop", "--init", key, "--key", key}
	for _, mode := range []string{"0644", "0666"} {
		if r := d.tryAs(alice, append(args, "--mode", mode)...); r.code != 0 {
			t.Fatalf("alice's build: %s", r.stderr)
		}
		r := d.tryAs(bob, args...)
		var err error
		if r.code != 0 {
			err = fmt.Errorf("exit code %d", r.code)
		}
		wantDenied(t, "a golden of mode "+mode+" with bob's key", "is not yours", strings.TrimSpace(r.stderr), err)
		if r := d.tryAs(alice, "golden", "rm", "bobs-app"); r.code != 0 {
			t.Fatal(r.stderr)
		}
	}
}
