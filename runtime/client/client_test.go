package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

// The suite against the real server is in runtime/api/server. Here are daemons
// that the real one is not.

func TestMain(m *testing.M) {
	if host := os.Getenv("CTRSNAP_TEST_DIAL"); host != "" {
		fmt.Println(version(host))
		return
	}
	goleak.VerifyTestMain(m)
}

// version says how asking the daemon at host ends.
func version(host string) error {
	c, err := client.New(host)
	if err != nil {
		return err
	}
	_, err = client.Do(context.Background(), c, api.GetVersion, api.None{})
	return err
}

func listen(t *testing.T, h http.HandlerFunc) *client.Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	serve(t, path, h)
	c, err := client.New("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// serve is a daemon at path.
func serve(t *testing.T, path string, h http.HandlerFunc) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h} //nolint:gosec // a test's
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		s.Close()
		<-done
	})
}

func asError(t *testing.T, err error) *api.Error {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v (%T), want *api.Error", err, err)
	}
	return e
}

// TestOneRoundTrip holds that a clone costs one request, which carries the
// protocol version.
func TestOneRoundTrip(t *testing.T) {
	var requests atomic.Int32
	c := listen(t, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		if r.Header.Get(api.HeaderProtocol) != "1" || r.Method != http.MethodPost || r.URL.Path != "/v1/clones" {
			t.Errorf("got %s %s %v", r.Method, r.URL, r.Header)
		}
		fmt.Fprint(w, `{"schema":1,"clones":[{"id":"c1","a_later_field":true}]}`)
	})
	resp, err := client.Do(context.Background(), c, api.CreateClones, api.CreateArgs{Body: api.CloneRequest{Golden: "shop"}})
	if err != nil || len(resp.Clones) != 1 || requests.Load() != 1 {
		t.Errorf("%+v, %v, %d requests", resp, err, requests.Load())
	}
}

// TestOnSent has a daemon that answers once the client has said that its request
// is out.
func TestOnSent(t *testing.T) {
	sent := make(chan struct{})
	c := listen(t, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-sent:
			fmt.Fprint(w, `{}`)
		case <-r.Context().Done():
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if _, err := client.Do(client.OnSent(ctx, func() { close(sent) }), c, api.CreateClones, api.CreateArgs{Body: api.CloneRequest{}}); err != nil {
		t.Error(err)
	}
}

func TestNotOurDaemon(t *testing.T) {
	c := listen(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "what?", http.StatusTeapot) })
	_, err := client.Do(context.Background(), c, api.GetVersion, api.None{})
	if e := asError(t, err); e.Code != api.CodeGeneral || !strings.Contains(e.Message, "418") || !strings.Contains(e.Hint, "CTRSNAP_HOST") {
		t.Errorf("got %+v", e)
	}
	_, err = c.Exec(context.Background(), "c1", api.ExecRequest{}, nil, nil, nil, nil)
	asError(t, err)
}

func TestDaemonDies(t *testing.T) {
	c := listen(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/logs") {
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
		}
		panic(http.ErrAbortHandler)
	})
	ctx := context.Background()
	_, err := client.Do(ctx, c, api.CreateClones, api.CreateArgs{Body: api.CloneRequest{}})
	for name, err := range map[string]error{
		"clone": err,
		"logs":  c.Logs(ctx, api.LogsArgs{ID: "c1", Tail: -1, Follow: true}, io.Discard),
	} {
		if e := asError(t, err); !strings.Contains(e.Message, "closed the connection") {
			t.Errorf("%s: got %+v", name, e)
		}
	}
}

// TestNotAllowed connects as nobody to a socket that is root's.
func TestNotAllowed(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir, err := os.MkdirTemp("", "ctrsnap-client-") //nolint:usetesting // nobody cannot enter t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(dir+"/client.test", self, 0o755), os.Chmod(dir, 0o755)); err != nil { //nolint:gosec // nobody must reach it
		t.Fatal(err)
	}
	l, err := net.Listen("unix", dir+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Chmod(dir+"/s", 0o660); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(dir + "/client.test")
	cmd.Env = []string{"CTRSNAP_TEST_DIAL=unix://" + dir + "/s"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "not allowed to connect to unix://"+dir) {
		t.Errorf("got %q, %v", out, err)
	}
}

// TestRoutes sends all that a route can carry.
func TestRoutes(t *testing.T) {
	var got string
	c := listen(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got = r.Method + " " + r.RequestURI + " " + string(b)
		w.WriteHeader(http.StatusNoContent)
	})
	ctx := context.Background()
	for _, tt := range []struct {
		want string
		send func() error
	}{
		{"DELETE /v1/clones/a%2F..%2Fb%20%7Bifname%7D/interfaces/eth1 ", func() error {
			return client.Tell(ctx, c, api.DetachInterface, api.DetachArgs{ID: "a/../b {ifname}", IfName: "eth1"})
		}},
		{"DELETE /v1/clones/c1 ", func() error { return client.Tell(ctx, c, api.RemoveClone, api.RemoveArgs{ID: "c1"}) }},
		{"DELETE /v1/clones/c1?force=true ", func() error { return client.Tell(ctx, c, api.RemoveClone, api.RemoveArgs{ID: "c1", Force: true}) }},
		{"POST /v1/builds/b1/exec {\"exit_code\":3}", func() error {
			return client.Tell(ctx, c, api.AnswerBuild, api.AnswerArgs{ID: "b1", Body: api.HostResult{ExitCode: 3}})
		}},
		// none is not the default
		{"GET /v1/clones/c1/logs?tail=0 ", func() error { return c.Logs(ctx, api.LogsArgs{ID: "c1"}, io.Discard) }},
		{"GET /v1/clones/c1/logs?follow=true&tail=-1 ", func() error { return c.Logs(ctx, api.LogsArgs{ID: "c1", Tail: -1, Follow: true}, io.Discard) }},
		{"GET /v1/events?golden=shop%3A1&since=7&type=a%26b&type=c ", func() error {
			return c.Events(ctx, api.EventsArgs{Since: 7, Types: []string{"a&b", "c"}, Golden: "shop:1"}, nil)
		}},
	} {
		if err := tt.send(); err != nil || got != tt.want {
			t.Errorf("got %q, %v, want %q", got, err, tt.want)
		}
	}
}
