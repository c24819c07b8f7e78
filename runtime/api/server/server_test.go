package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func wantCode(t *testing.T, err error, code api.Code, parts ...string) *api.Error {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) {
		t.Fatalf("got error %v (%T), want *api.Error", err, err)
	}
	if e.Code != code {
		t.Errorf("got code %s (%s), want %s", e.Code, e.Message, code)
	}
	for _, p := range parts {
		if !strings.Contains(e.Message+"\n"+e.Hint, p) {
			t.Errorf("error %+v does not say %q", *e, p)
		}
	}
	return e
}

func TestClones(t *testing.T) {
	ctx := testContext(t)
	d, c := serve(t, newFake())
	resp, err := client.Do(ctx, c, api.CreateClones, api.CreateArgs{Body: api.CloneRequest{Golden: "shop", Name: "pr-1", Count: 2, TTL: api.Duration(time.Hour), Labels: map[string]string{"job": "a,b=c"}}})
	if err != nil || len(resp.Clones) != 2 || resp.Schema != api.Schema || resp.Clones[0].Schema != api.Schema {
		t.Fatalf("clone: %+v, %v", resp, err)
	}
	groups, _ := os.Getgroups()
	want := access.User(d.fake.caller.Name, os.Getuid(), append([]int{os.Getgid()}, groups...)...)
	want.PID = os.Getpid()
	if diff := cmp.Diff(want, d.fake.caller, cmp.AllowUnexported(access.Caller{})); diff != "" || want.Name == "" {
		t.Error(diff)
	}
	got, err := client.Do(ctx, c, api.ListClones, api.ListClonesArgs{Labels: []string{"job=a,b=c"}})
	if err != nil || len(got) != 2 {
		t.Fatalf("clones by label: %v, %v", got, err)
	}
	if got, err := client.Do(ctx, c, api.ListClones, api.ListClonesArgs{Labels: []string{"job=other"}}); err != nil || got == nil || len(got) != 0 {
		t.Errorf("clones of no job: %v, %v", got, err)
	}
	one, err := client.Do(ctx, c, api.GetClone, api.CloneArgs{ID: resp.Clones[0].ID})
	if diff := cmp.Diff(resp.Clones[0], one); err != nil || diff != "" {
		t.Errorf("clone by id: %v\n%s", err, diff)
	}
	one, err = client.Do(ctx, c, api.ExtendClone, api.ExtendArgs{ID: one.ID, Body: api.ExtendRequest{TTL: api.Duration(90 * time.Second)}})
	if err != nil || one.ExpiresAt.Unix() != 90 {
		t.Errorf("extend: %+v, %v", one, err)
	}
	cmd, err := client.Do(ctx, c, api.GetClient, api.ClientArgs{ID: one.ID, Args: []string{"-c", "select 'a,b'", ""}})
	if diff := cmp.Diff([]string{"psql", "-c", "select 'a,b'", ""}, cmd.Args); err != nil || diff != "" {
		t.Errorf("client command: %v\n%s", err, diff)
	}
	if err := client.Tell(ctx, c, api.RemoveClone, api.RemoveArgs{ID: one.ID}); err != nil {
		t.Error(err)
	}
	_, err = client.Do(ctx, c, api.GetClone, api.CloneArgs{ID: one.ID})
	wantCode(t, err, api.CodeNotFound, one.ID, "ctrsnap ls")
	if strings.Contains(d.log.String(), "select") {
		t.Error("a query is in the access log")
	}
}

func TestGoldens(t *testing.T) {
	ctx := testContext(t)
	f := newFake()
	f.answer = func(caller access.Caller, build string, r api.HostResult) error {
		if build != "b1" || r.ExitCode != 3 || r.Token != "secret" || caller.UID() != os.Getuid() {
			return fmt.Errorf("build %s: %w", build, errdefs.ErrNotFound)
		}
		return nil
	}
	_, c := serve(t, f)
	if l, err := client.Do(ctx, c, api.ListGoldens, api.ListGoldensArgs{Name: "shop"}); err != nil || len(l) != 2 || l[1].Schema != api.Schema {
		t.Errorf("goldens: %+v, %v", l, err)
	}
	if l, err := client.Do(ctx, c, api.ListGoldens, api.ListGoldensArgs{Name: "other"}); err != nil || l == nil {
		t.Errorf("no goldens: %v, %v", l, err)
	}
	if g, err := client.Do(ctx, c, api.GetGolden, api.GoldenArgs{Ref: "shop:3"}); err != nil || g.Version != 3 {
		t.Errorf("golden: %+v, %v", g, err)
	}
	if g, err := client.Do(ctx, c, api.PromoteGolden, api.GoldenArgs{Ref: "shop:2"}); err != nil || g.Version != 2 {
		t.Errorf("promote: %+v, %v", g, err)
	}
	if g, err := client.Do(ctx, c, api.RollbackGolden, api.GoldenNameArgs{Name: "shop"}); err != nil || g.Version != 1 {
		t.Errorf("rollback: %+v, %v", g, err)
	}
	if g, err := client.Do(ctx, c, api.SetAccess, api.AccessArgs{Name: "shop", Body: api.AccessRequest{Owner: "ann", Mode: "0600"}}); err != nil || g.Owner != "ann" || g.Mode != "0600" {
		t.Errorf("access: %+v, %v", g, err)
	}
	wantCode(t, client.Tell(ctx, c, api.RemoveGolden, api.GoldenArgs{Ref: "shop:1"}), api.CodeConflict, "has clones")
	_, err := client.Do(ctx, c, api.GetGolden, api.GoldenArgs{Ref: "no/../such"})
	wantCode(t, err, api.CodeUsage, `"no/../such"`)
	for _, ref := range []string{"", ".", ".."} {
		_, err = client.Do(ctx, c, api.GetGolden, api.GoldenArgs{Ref: ref})
		wantCode(t, err, api.CodeUsage, "invalid path")
	}
	if err := client.Tell(ctx, c, api.AnswerBuild, api.AnswerArgs{ID: "b1", Body: api.HostResult{ExitCode: 3, Token: "secret"}}); err != nil {
		t.Error(err)
	}
	wantCode(t, client.Tell(ctx, c, api.AnswerBuild, api.AnswerArgs{ID: "b2", Body: api.HostResult{}}), api.CodeNotFound)
}

func TestHost(t *testing.T) {
	ctx := testContext(t)
	_, c := serve(t, newFake())
	v, err := client.Do(ctx, c, api.GetVersion, api.None{})
	want := api.Version{Schema: api.Schema, Version: "1.2.3", Protocol: api.Protocol, MinProtocol: api.MinProtocol}
	if diff := cmp.Diff(want, v); err != nil || diff != "" {
		t.Errorf("version: %v\n%s", err, diff)
	}
	if doctor, err := client.Do(ctx, c, api.GetDoctor, api.None{}); err != nil || doctor.Checks == nil {
		t.Errorf("doctor: %+v, %v", doctor, err)
	}
	for i, route := range []api.Route[api.None, api.GC]{api.ShowGarbage, api.CollectGarbage} {
		if g, err := client.Do(ctx, c, route, api.None{}); err != nil || g.Removed != (i == 1) || len(g.Kinds) != 1 {
			t.Errorf("gc: %+v, %v", g, err)
		}
	}
}

// TestErrors holds the one mapping from errors to codes and statuses.
func TestErrors(t *testing.T) {
	for name, tt := range map[string]struct {
		err    error
		code   api.Code
		status int
	}{
		"not found":    {fmt.Errorf("a: %w", errdefs.ErrNotFound), api.CodeNotFound, 404},
		"exists":       {errdefs.ErrAlreadyExists, api.CodeConflict, 409},
		"precondition": {errdefs.ErrFailedPrecondition, api.CodeConflict, 409},
		"argument":     {errdefs.ErrInvalidArgument, api.CodeUsage, 400},
		"exhausted":    {errdefs.ErrResourceExhausted, api.CodeCapacity, 429},
		"no space":     {fmt.Errorf("write: %w", syscall.ENOSPC), api.CodeCapacity, 507},
		"deadline":     {context.DeadlineExceeded, api.CodeTimeout, 504},
		"permission":   {errdefs.ErrPermissionDenied, api.CodeNotAllowed, 403},
		"source":       {fmt.Errorf("build shop: %w", &runtime.SourceError{File: "1.sql"}), api.CodeGoldenInvalid, 422},
		"stopping":     {runtime.ErrStopping, api.CodeGeneral, 503},
		"cancelled":    {context.Canceled, api.CodeGeneral, 499},
		"own":          {&api.Error{Code: api.CodeTimeout}, api.CodeTimeout, 504},
		"own general":  {&api.Error{Code: api.CodeGeneral}, api.CodeGeneral, 500},
		"internal":     {errors.New("oops"), api.CodeGeneral, 500},
	} {
		f := newFailure(snapshot.WithHint(tt.err, "do it"))
		if f.ErrorBody.Error.Code != tt.code || f.status != tt.status {
			t.Errorf("%s: got %s %d, want %s %d", name, f.ErrorBody.Error.Code, f.status, tt.code, tt.status)
		}
		if f.ErrorBody.Error.Hint != "do it" && !strings.HasPrefix(name, "own") {
			t.Errorf("%s: no hint", name)
		}
	}
}

// TestWrongRequests sends what curl users get wrong.
func TestWrongRequests(t *testing.T) {
	f := newFake()
	f.exec = nil
	d, c := serve(t, f)
	if _, err := client.Do(testContext(t), c, api.CreateClones, api.CreateArgs{Body: api.CloneRequest{Golden: "shop", Name: "x"}}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		method, path, body string
		status             int
		code               api.Code
		says               string
	}{
		{"POST", "/v1/clones", ``, 400, api.CodeUsage, "body is required"},
		{"POST", "/v1/clones", `{`, 400, api.CodeUsage, "unexpected end of JSON"},
		{"POST", "/v1/clones", `{"golden":"shop"} x`, 400, api.CodeUsage, "invalid character"},
		{"POST", "/v1/clones", `[]`, 400, api.CodeUsage, "expected object"},
		{"POST", "/v1/clones", `{}`, 400, api.CodeUsage, "property golden"},
		{"POST", "/v1/clones", `{"golden":null}`, 400, api.CodeUsage, "golden: expected string"},
		{"POST", "/v1/clones", `{"golden":"shop","coutn":2}`, 400, api.CodeUsage, "coutn: unexpected property"},
		{"POST", "/v1/clones", `{"golden":"shop","count":0}`, 400, api.CodeUsage, "count: expected number >= 1"},
		{"POST", "/v1/clones", `{"golden":"shop","count":"2"}`, 400, api.CodeUsage, "count: expected integer"},
		{"POST", "/v1/clones", `{"golden":"shop","ttl":"5 hours"}`, 400, api.CodeUsage, "ttl: expected string to be a duration such as"},
		{"POST", "/v1/clones", `{"golden":"shop","ttl":"-1h"}`, 400, api.CodeUsage, "ttl: "},
		{"POST", "/v1/clones", `{"golden":"shop","ttl":"99999999999999h"}`, 400, api.CodeUsage, "99999999999999h"},
		{"POST", "/v1/clones", `{"golden":"shop","if_exists":"maybe"}`, 400, api.CodeUsage, "if_exists: expected value to be one of"},
		{"POST", "/v1/clones", `{"golden":"` + strings.Repeat("a", maxJSON) + `"}`, 413, api.CodeUsage, "too large"},
		{"POST", "/v1/clones", `{"golden":"other"}`, 404, api.CodeNotFound, "golden other"},
		{"GET", "/v1/clones?lable=a=b", ``, 400, api.CodeUsage, "lable: unknown query parameter"},
		{"GET", "/v1/clones?label=job", ``, 400, api.CodeUsage, "label"},
		{"GET", "/v1/clones/none", ``, 404, api.CodeNotFound, "clone none"},
		{"DELETE", "/v1/clones/none", ``, 404, api.CodeNotFound, "clone none"},
		{"POST", "/v1/clones/x/extend", `{}`, 400, api.CodeUsage, "ttl"},
		{"GET", "/v1/clones/none/client", ``, 404, api.CodeNotFound, "clone none"},
		{"GET", "/v1/clones/x/logs?tail=many", ``, 400, api.CodeUsage, "tail"},
		{"GET", "/v1/clones/x/logs?tail=-2", ``, 400, api.CodeUsage, "tail"},
		{"GET", "/v1/clones/x/logs?follow=1x", ``, 400, api.CodeUsage, "follow"},
		{"GET", "/v1/clones/none/logs", ``, 404, api.CodeNotFound, "clone none"},
		{"POST", "/v1/clones/x/exec", ``, 400, api.CodeUsage, "upgrade"},
		{"GET", "/v1/leases/none", ``, 404, api.CodeNotFound, "lease none"},
		{"GET", "/v1/goldens/Shop", ``, 400, api.CodeUsage, "invalid name"},
		{"POST", "/v1/goldens/none/promote", ``, 404, api.CodeNotFound, "golden none"},
		{"POST", "/v1/goldens/none/rollback", ``, 404, api.CodeNotFound, "golden none"},
		{"DELETE", "/v1/goldens/none", ``, 404, api.CodeNotFound, "golden none"},
		{"POST", "/v1/goldens", `{"name":"shop"}`, 400, api.CodeUsage, "multipart"},
		{"POST", "/v1/builds/b1/exec", `{"exit_code":"0"}`, 400, api.CodeUsage, "exit_code: expected integer"},
		{"GET", "/v1/nothing", ``, 404, api.CodeNotFound, "no such path"},
		{"GET", "/", ``, 404, api.CodeNotFound, "no such path"},
		{"GET", "/v1/clones/", ``, 400, api.CodeUsage, "invalid path"},
		{"GET", "/v1/../../etc/passwd", ``, 400, api.CodeUsage, "invalid path"},
		{"PUT", "/v1/clones", ``, 405, api.CodeUsage, "use GET"},
		{"POST", "/v1/version", ``, 405, api.CodeUsage, "use GET"},
	} {
		request := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: ctrsnap\r\nConnection: close\r\nContent-Length: %d\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\n%s", tt.method, tt.path, len(tt.body), tt.body)
		got := raw(t, d.socket, request)
		head, body, _ := strings.Cut(got, "\r\n\r\n")
		if want := fmt.Sprintf("HTTP/1.1 %d ", tt.status); !strings.HasPrefix(head, want) || !strings.Contains(head, "Content-Type: application/json\r\n") {
			t.Errorf("%s %s %.40s: head %q, want %s", tt.method, tt.path, tt.body, head, want)
		}
		var doc api.ErrorBody
		if err := json.Unmarshal([]byte(body), &doc); err != nil || doc.Error == nil {
			t.Errorf("%s %s: body %q: %v", tt.method, tt.path, body, err)
			continue
		}
		wantCode(t, doc.Error, tt.code, tt.says)
	}
}

func TestProtocol(t *testing.T) {
	d, _ := serve(t, newFake())
	for header, want := range map[string]struct {
		status int
		says   string
	}{
		"":  {200, ""},
		"1": {200, ""},
		"2": {400, "upgrade ctrsnapd"},
		"0": {400, "upgrade ctrsnap\""},
		"x": {400, "invalid header"},
	} {
		h := ""
		if header != "" {
			h = api.HeaderProtocol + ": " + header + "\r\n"
		}
		got := raw(t, d.socket, "GET /v1/version HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"+h+"\r\n")
		if !strings.HasPrefix(got, fmt.Sprintf("HTTP/1.1 %d", want.status)) || !strings.Contains(got, want.says) || !strings.Contains(got, api.HeaderProtocol+": 1\r\n") {
			t.Errorf("protocol %q: %s", header, got)
		}
	}
}

func TestPanicIsAnsweredAndLogged(t *testing.T) {
	f := newFake()
	f.create = func(context.Context) error { panic("at the disco") }
	f.logs = func(_ context.Context, w io.Writer) error {
		_, _ = io.WriteString(w, "half of it")
		panic("half-way")
	}
	f.clones["c1"] = api.Clone{ID: "c1"}
	d, c := serve(t, f)
	_, err := client.Do(testContext(t), c, api.CreateClones, api.CreateArgs{Body: api.CloneRequest{Golden: "shop"}})
	wantCode(t, err, api.CodeGeneral, "internal error", "see request")
	if err := c.Logs(testContext(t), api.LogsArgs{ID: "c1", Tail: -1}, io.Discard); err == nil {
		t.Error("an answer that was cut looks whole")
	}
	d.stop()
	if log := d.log.String(); !strings.Contains(log, "at the disco") || !strings.Contains(log, "status=500") || !strings.Contains(log, "half-way") {
		t.Errorf("log: %s", log)
	}
}

// TestMessagesAreForPeople: no class of errors is told by its name.
func TestMessagesAreForPeople(t *testing.T) {
	for message, want := range map[string]string{
		"shop:1 has clones: failed precondition":           "shop:1 has clones",
		"extend c1: invalid argument: 3 days are too long": "extend c1: 3 days are too long",
		"a: resource exhausted; b: conflicting, aborted":   "a; b: conflicting, aborted",
		"golden shop: not found":                           "golden shop: not found",
		"an error: conflicts":                              "an error: conflicts",
	} {
		if got := newFailure(errors.New(message)).ErrorBody.Error.Message; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestInternalErrorsAreLogged(t *testing.T) {
	f := newFake()
	f.create = func(context.Context) error { return errors.New("disk on fire") }
	d, c := serve(t, f)
	_, err := client.Do(testContext(t), c, api.CreateClones, api.CreateArgs{Body: api.CloneRequest{Golden: "shop"}})
	e := wantCode(t, err, api.CodeGeneral, "disk on fire")
	id := strings.Fields(e.Hint)[2]
	if log := d.log.String(); !strings.Contains(log, "internal error") || !strings.Contains(log, id) {
		t.Errorf("log has no request %s: %s", id, log)
	}
}

func TestClientGoneEndsRequest(t *testing.T) {
	f := newFake()
	began, ended := make(chan struct{}), make(chan error, 1)
	f.create = func(ctx context.Context) error {
		close(began)
		<-ctx.Done()
		ended <- ctx.Err()
		return ctx.Err()
	}
	_, c := serve(t, f)
	ctx, cancel := context.WithCancelCause(testContext(t))
	gone := errors.New("user pressed ctrl-c")
	go func() {
		<-began
		cancel(gone)
	}()
	if _, err := client.Do(ctx, c, api.CreateClones, api.CreateArgs{Body: api.CloneRequest{Golden: "shop"}}); !errors.Is(err, gone) {
		t.Errorf("got %v, want the cause", err)
	}
	<-ended
}

func TestStopLetsRequestsEnd(t *testing.T) {
	f := newFake()
	began, release := make(chan struct{}), make(chan struct{})
	f.create = func(ctx context.Context) error {
		close(began)
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	d, c := serve(t, f)
	result := make(chan error, 1)
	go func() {
		_, err := client.Do(testContext(t), c, api.CreateClones, api.CreateArgs{Body: api.CloneRequest{Golden: "shop"}})
		result <- err
	}()
	<-began
	go d.stop()
	<-d.stopping.Done()
	close(release)
	if err := <-result; err != nil {
		t.Errorf("a clone in progress was cut: %v", err)
	}
	d.stop()
}

func TestDaemonAbsent(t *testing.T) {
	ctx := testContext(t)
	c := dial(t, t.TempDir()+"/s")
	_, err := client.Do(ctx, c, api.GetVersion, api.None{})
	if e := wantCode(t, err, api.CodeGeneral, "daemon is not running at unix:///", "start ctrsnapd, or set CTRSNAP_HOST"); !e.Retryable {
		t.Error("not retryable")
	}
	for _, host := range []string{"tcp://1.2.3.4:5", "unix://rel", "/x", "unix:///" + strings.Repeat("a", 200)} {
		_, err := client.New(host)
		wantCode(t, err, api.CodeUsage, "invalid host", "unix:///PATH")
	}
	if c, err := client.New(""); err != nil || c.Host() != api.DefaultHost {
		t.Errorf("default host: %v", err)
	}
}

func TestOpenAPI(t *testing.T) {
	d, _ := serve(t, newFake())
	got := raw(t, d.socket, "GET /openapi.json HTTP/1.0\r\n\r\n")
	_, body, _ := strings.Cut(got, "\r\n\r\n")
	var doc struct {
		OpenAPI    string
		Paths      map[string]map[string]any
		Components struct{ Schemas map[string]map[string]any }
	}
	if err := json.Unmarshal([]byte(body), &doc); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1") {
		t.Errorf("version %q", doc.OpenAPI)
	}
	for _, want := range []string{
		"GET /v1/version", "GET /v1/goldens", "GET /v1/goldens/{ref}", "POST /v1/goldens", "POST /v1/goldens/{ref}/promote",
		"POST /v1/goldens/{name}/rollback", "DELETE /v1/goldens/{ref}", "POST /v1/builds/{id}/exec", "POST /v1/clones",
		"GET /v1/clones", "GET /v1/clones/{id}", "DELETE /v1/clones/{id}", "POST /v1/clones/{id}/extend",
		"GET /v1/clones/{id}/logs", "POST /v1/clones/{id}/exec", "GET /v1/clones/{id}/client", "GET /v1/leases/{id}", "GET /v1/doctor",
	} {
		method, path, _ := strings.Cut(want, " ")
		if doc.Paths[path][strings.ToLower(method)] == nil {
			t.Errorf("%s is not described", want)
		}
	}
	for _, want := range []string{"Clone", "CloneRequest", "Golden", "BuildRequest", "BuildEvent", "ExecRequest", "ErrorBody", "Lease"} {
		if doc.Components.Schemas[want] == nil {
			t.Errorf("schema %s is missing", want)
		}
	}
	for _, not := range []string{"ErrorModel", "problem+json", `["array","null"]`, "http://", "https://"} {
		if strings.Contains(body, not) {
			t.Errorf("document has %q", not)
		}
	}
	if !strings.Contains(body, "a duration such as") && !strings.Contains(body, "1h30m0s") {
		t.Error("durations are not described")
	}
	checkRefs(t, body, doc.Components.Schemas)
}

// checkRefs holds that each reference has its schema.
func checkRefs(t *testing.T, body string, schemas map[string]map[string]any) {
	t.Helper()
	for _, part := range strings.Split(body, `"#/components/schemas/`)[1:] {
		name, _, _ := strings.Cut(part, `"`)
		if schemas[name] == nil {
			t.Errorf("reference to %s leads nowhere", name)
		}
	}
}

func TestHandlerWithoutSocket(t *testing.T) {
	f := newFake()
	s := New(Options{Clones: fakeClones{f}, Goldens: fakeGoldens{f}, Pools: fakePools{f}, Host: fakeHost{f}, Logger: slog.New(slog.DiscardHandler)})
	if got, err := s.caller(context.Background()); err != nil || got.UID() != -1 {
		t.Errorf("caller of no socket: %+v", got)
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/version", nil))
	if w.Code != http.StatusOK {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

// BenchmarkClone measures what the way to the daemon and back adds to a clone.
func BenchmarkClone(b *testing.B) {
	f := newFake()
	_, c := serve(b, f)
	for b.Loop() {
		if _, err := client.Do(context.Background(), c, api.CreateClones, api.CreateArgs{Body: api.CloneRequest{Golden: "shop"}}); err != nil {
			b.Fatal(err)
		}
	}
}
