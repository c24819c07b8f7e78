package containerd_test

import (
	"bytes"
	"context"
	"errors"

	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/containerd"
	"github.com/ctrsnap/ctrsnap/snapshot/containerd/containerdtest"
)

// openBelow returns the files below dir that this process has open.
func openBelow(dir string) []string {
	fds, _ := filepath.Glob("/proc/self/fd/*")
	var open []string
	for _, fd := range fds {
		if path, _ := os.Readlink(fd); strings.HasPrefix(path, dir) {
			open = append(open, path)
		}
	}
	return open
}

// TestStart boots the one containerd that this process may have, uses it in
// process and over its socket, and stops it.
func TestStart(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	if !containerdtest.Alone(t) {
		return
	}
	dir := t.TempDir()
	var logs bytes.Buffer
	o := containerd.Options{
		Root: dir + "/root", State: dir + "/state", Address: dir + "/c.sock",
		Logger: slog.New(slog.NewTextHandler(&logs, nil)),
	}
	start := time.Now()
	s, err := containerd.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("booted in %v", time.Since(start))
	ctx := namespaces.WithNamespace(t.Context(), snapshot.Namespace)
	if !s.Embedded() || s.Version() == "" {
		t.Errorf("embedded %v, version %q", s.Embedded(), s.Version())
	}
	if _, err := containerd.Start(t.Context(), o); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("second Start: %v", err)
	}
	if _, err := s.Client().SnapshotService(snapshot.Snapshotter).Prepare(ctx, "a", ""); err != nil {
		t.Fatal(err)
	}

	remote, err := containerd.Connect(ctx, "unix://"+o.Address)
	if err != nil {
		t.Fatal(err)
	}
	if remote.Embedded() || !strings.HasPrefix(remote.Version(), s.Version()) {
		t.Errorf("over the socket: embedded %v, version %q", remote.Embedded(), remote.Version())
	}
	if _, err := remote.Client().SnapshotService(snapshot.Snapshotter).Stat(ctx, "a"); err != nil {
		t.Errorf("snapshot made in process, seen over the socket: %v", err)
	}
	if err := remote.Stop(ctx); err != nil {
		t.Error(err)
	}

	if err := s.Stop(ctx); err != nil {
		t.Error(err)
	}
	if err := s.Stop(ctx); err != nil {
		t.Errorf("second Stop: %v", err)
	}
	open := openBelow(o.Root)
	for deadline := time.Now().Add(20 * time.Second); len(open) > 0 && time.Now().Before(deadline); open = openBelow(o.Root) {
		<-time.After(10 * time.Millisecond) // what is collected is closed a moment later
	}
	if len(open) > 0 {
		t.Errorf("open after Stop, so that the filesystem cannot be unmounted: %q", open)
	}
	for _, path := range []string{o.Address, o.Address + ".ttrpc"} {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("after Stop, %s: %v", path, err)
		}
	}
	assertUnlocked(t, filepath.Join(dir, "root"))
	if logs.Len() > 0 {
		t.Errorf("a normal life is not worth a line at info, got:\n%s", &logs)
	}
}

// assertUnlocked fails if this process still has a database below dir open.
func assertUnlocked(t *testing.T, dir string) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if path, _ := os.Readlink("/proc/self/fd/" + fd.Name()); strings.HasPrefix(path, dir) {
			t.Errorf("still open after Stop: %s", path)
		}
	}
}

func TestStartRefusesRelativePaths(t *testing.T) {
	_, err := containerd.Start(t.Context(), containerd.Options{Root: "root", State: "/s", Address: "/a"})
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v", err)
	}
}

// TestConnectNothingThere wants a quick error that says what to do.
func TestConnectNothingThere(t *testing.T) {
	mute := filepath.Join(t.TempDir(), "mute.sock")
	l, err := net.Listen("unix", mute)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, address := range map[string]string{
		"no socket":     filepath.Join(t.TempDir(), "none.sock"),
		"never answers": mute,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			_, err := containerd.Connect(ctx, address)
			if !errdefs.IsUnavailable(err) || ctx.Err() != nil {
				t.Errorf("got %v, context: %v", err, ctx.Err())
			}
			if hint(err) == "" {
				t.Errorf("no hint in %v", err)
			}
		})
	}
}

// hint returns the advice that err carries.
func hint(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}
