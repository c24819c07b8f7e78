package rig_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"

	"github.com/ctrsnap/ctrsnap/bench/rig"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

// TestMain is the programs under test as well: this binary under their names.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "ctrsnapd":
		os.Exit(fakeDaemon())
	case "ctrsnap":
		fmt.Fprintln(os.Stderr, "no such verb")
		os.Exit(2)
	}
	os.Exit(m.Run())
}

// fakeDaemon says its version until it is told to end; teardown does nothing.
func fakeDaemon() int {
	if os.Args[1] == "teardown" {
		return 0
	}
	text, err := os.ReadFile(os.Args[2])
	match := regexp.MustCompile(`state = "(.*)"`).FindSubmatch(text)
	if err != nil || match == nil || regexp.MustCompile(`broken = true`).Match(text) {
		fmt.Fprintln(os.Stderr, "broken configuration")
		return 1
	}
	state := string(match[1])
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := os.MkdirAll(state, 0o755); err != nil {
		return 1
	}
	l, err := net.Listen("unix", filepath.Join(state, "ctrsnap.sock"))
	if err != nil {
		return 1
	}
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(api.Version{Schema: api.Schema, Version: "fake"})
	}))
	notify, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		return 1
	}
	fmt.Fprint(notify, "READY=1")
	<-ctx.Done()
	return 0
}

// programs makes a directory with them.
func programs(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	for _, name := range []string{"ctrsnap", "ctrsnapd"} {
		if err := os.Symlink(self, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	return bin
}

func TestRigStartsRestartsAndLeavesNothing(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	r, err := rig.New(programs(t), dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL, 0} {
		if err := r.Start(t.Context(), rig.Config{"pool": "max = 0"}); err != nil {
			t.Fatal(err)
		}
		if v, err := client.Do(t.Context(), r.Client(), api.GetVersion, api.None{}); err != nil || v.Version != "fake" {
			t.Errorf("got %+v, %v", v, err)
		}
		var exit *rig.ExitError
		if _, err := r.CLI(t.Context(), "pool", "ls"); !errors.As(err, &exit) || exit.Code != 2 || exit.Stderr != "no such verb\n" {
			t.Errorf("got %v", err)
		}
		if sig == 0 {
			break
		}
		if err := r.Stop(sig); err != nil {
			t.Error(err)
		}
		if _, err := client.Do(t.Context(), r.Client(), api.GetVersion, api.None{}); err == nil {
			t.Error("a daemon that was stopped answers")
		}
		os.Remove(filepath.Join(r.State(), "ctrsnap.sock"))
	}
	if err := r.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if _, err := os.Stat(r.State()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("state directory: %v", err)
	}
}

func TestRigSaysWhyTheDaemonEnded(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	r, err := rig.New(programs(t), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	err = r.Start(t.Context(), rig.Config{"x": "broken = true"})
	if err == nil || !regexp.MustCompile(`(?s)it ended.*broken configuration`).MatchString(err.Error()) {
		t.Errorf("got %v", err)
	}
	if err := r.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
