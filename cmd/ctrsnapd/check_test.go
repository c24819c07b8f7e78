package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/ctrsnap/ctrsnap/cmd/internal/config"
)

// TestCheck looks at what a start needs here, and what it says where that is missing. It leaves nothing.
func TestCheck(t *testing.T) {
	dir := t.TempDir()
	cfg := config.Default()
	cfg.Root, cfg.State = filepath.Join(dir, "root"), filepath.Join(dir, "state")
	cfg.API.Socket, cfg.API.Group = filepath.Join(cfg.State, "ctrsnap.sock"), "no-such-group"
	cfg.Network.Conflist, cfg.API.TLSListen = filepath.Join(dir, "none.conflist"), "127.0.0.1:0"
	cfg.Containerd.Runc = filepath.Join(dir, "no-runc")
	var out bytes.Buffer
	err := check(t.Context(), cfg, &out)
	if err == nil {
		t.Error("all is well")
	}
	for _, want := range []string{
		"warning  group: group no-such-group does not exist", "fix: groupadd --system no-such-group",
		"ok       socket: ", "ok       directory: " + cfg.Root, "error    runc: ", "error    network: ", "error    tls: ",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("it has left %v %v", left, err)
	}
}

// TestLetIn: a group that comes to be later is let in without a restart.
func TestLetIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		tries := 0
		letIn(t.Context(), func() (bool, error) { tries++; return tries == 3, nil }, "ci", slog.New(slog.NewTextHandler(&log, nil)))
		if s := log.String(); tries != 3 || strings.Count(s, "groupadd --system ci") != 1 || !strings.Contains(s, "exists now") {
			t.Errorf("%d tries: %s", tries, s)
		}
		ctx, stop := context.WithCancel(t.Context())
		stop()
		letIn(ctx, func() (bool, error) { return false, nil }, "ci", slog.New(slog.DiscardHandler))
		letIn(t.Context(), func() (bool, error) { return false, errors.New("read-only") }, "ci", slog.New(slog.DiscardHandler))
	})
}
