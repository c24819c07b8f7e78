package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

func part(kind, name, content string) client.Part {
	return client.Part{Kind: kind, Name: name, Open: func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(content)), nil
	}}
}

func spool(next func() (api.Part, error)) ([]string, error) {
	var got []string
	for {
		p, err := next()
		if err == io.EOF { //nolint:errorlint // the contract says io.EOF itself
			return got, nil
		}
		if err != nil {
			return got, err
		}
		b, err := io.ReadAll(p)
		if err != nil {
			return got, err
		}
		got = append(got, p.Kind+" "+p.Name+" "+string(b))
	}
}

func TestBuild(t *testing.T) {
	f := newFake()
	var got []string
	f.build = func(_ context.Context, req api.BuildRequest, next func() (api.Part, error), events func(api.BuildEvent)) (api.Golden, bool, error) {
		events(api.BuildEvent{Type: api.EventID, BuildID: "b1"})
		var err error
		if got, err = spool(next); err != nil {
			return api.Golden{}, false, err
		}
		events(api.BuildEvent{Type: api.EventStep, Step: "restore"})
		return api.Golden{Name: req.Name, Version: 7}, true, nil
	}
	_, c := serve(t, f)
	var types []string
	g, existed, err := c.Build(testContext(t), api.BuildRequest{Name: "shop"},
		[]client.Part{part("init", "../1.sql", "select 1"), part("mask", "m.sql", ""), part("init", "2.sql", "select 2")},
		func(e api.BuildEvent) error { types = append(types, e.Type); return nil })
	if err != nil || g.Version != 7 || g.Schema != api.Schema || !existed {
		t.Errorf("build: %+v %t %v", g, existed, err)
	}
	if want := []string{"init 1.sql select 1", "mask m.sql ", "init 2.sql select 2"}; !slices.Equal(got, want) {
		t.Errorf("parts %q, want %q", got, want)
	}
	if want := []string{"id", "step", "done"}; !slices.Equal(types, want) {
		t.Errorf("events %q, want %q", types, want)
	}
}

// TestBuildBothWays holds that events come while the body is being sent, and
// that nothing of it is held: 200 MB are sent in step with events.
func TestBuildBothWays(t *testing.T) {
	const size, step = 200 << 20, 20 << 20
	var read atomic.Int64
	f := newFake()
	f.build = func(_ context.Context, _ api.BuildRequest, next func() (api.Part, error), events func(api.BuildEvent)) (api.Golden, bool, error) {
		events(api.BuildEvent{Type: api.EventID, BuildID: "b1"})
		p, err := next()
		if err != nil {
			return api.Golden{}, false, err
		}
		for read.Load() < size {
			n, err := io.CopyN(io.Discard, p, step)
			read.Add(n)
			if err != nil {
				return api.Golden{}, false, err
			}
			events(api.BuildEvent{Type: api.EventProgress, Done: read.Load()})
		}
		_, err = next()
		if err != io.EOF { //nolint:errorlint // the contract says io.EOF itself
			return api.Golden{}, false, fmt.Errorf("after the last part: %w", err)
		}
		return api.Golden{Name: "shop"}, false, nil
	}
	_, c := serve(t, f)
	// The source gives no more than the events have asked for, so that a client
	// or daemon that waits for the other's end hangs; and it is never far ahead
	// of the reader, so that one that buffers is seen.
	source := &pacedReader{left: size, allowed: make(chan int, size/step+2)}
	var ahead int64
	var before goruntime.MemStats
	goruntime.ReadMemStats(&before)
	_, _, err := c.Build(testContext(t), api.BuildRequest{Name: "shop"},
		[]client.Part{{Kind: "dump", Name: "big", Open: func() (io.ReadCloser, error) { return source, nil }}},
		func(e api.BuildEvent) error {
			ahead = max(ahead, source.given.Load()-read.Load())
			source.allowed <- step + 1<<20 // and a little for the buffers on the way
			return nil
		})
	if err != nil || read.Load() != size {
		t.Fatalf("read %d bytes: %v", read.Load(), err)
	}
	var after goruntime.MemStats
	goruntime.ReadMemStats(&after)
	if ahead > step || after.HeapAlloc > before.HeapAlloc+32<<20 {
		t.Errorf("%d bytes ahead, heap grew from %d to %d", ahead, before.HeapAlloc, after.HeapAlloc)
	}
}

// pacedReader gives only as many bytes as were allowed.
type pacedReader struct {
	left, credit int
	allowed      chan int
	given        atomic.Int64
}

func (p *pacedReader) Read(b []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	for p.credit == 0 {
		p.credit = <-p.allowed
	}
	n := min(len(b), p.credit, p.left)
	p.left -= n
	p.credit -= n
	p.given.Add(int64(n))
	return n, nil
}

func (p *pacedReader) Close() error { return nil }

func TestBuildFails(t *testing.T) {
	f := newFake()
	_, c := serve(t, f)
	big := part("dump", "big", strings.Repeat("x", 8<<20))
	fail := func(first bool) {
		f.build = func(_ context.Context, _ api.BuildRequest, _ func() (api.Part, error), events func(api.BuildEvent)) (api.Golden, bool, error) {
			if first {
				events(api.BuildEvent{Type: api.EventID, BuildID: "b1"})
			}
			return api.Golden{}, false, fmt.Errorf("build shop: %w", errdefs.ErrAlreadyExists)
		}
	}
	for _, first := range []bool{true, false} {
		fail(first)
		for range 20 { // the answer must not be lost to a body that nobody reads
			_, _, err := c.Build(testContext(t), api.BuildRequest{Name: "shop"}, []client.Part{big}, nil)
			wantCode(t, err, api.CodeConflict, "build shop")
		}
	}
	f.build = func(_ context.Context, _ api.BuildRequest, next func() (api.Part, error), _ func(api.BuildEvent)) (api.Golden, bool, error) {
		_, err := spool(next)
		return api.Golden{}, false, err
	}
	_, _, err := c.Build(testContext(t), api.BuildRequest{Name: "shop"}, []client.Part{part("inti", "a", "")}, nil)
	wantCode(t, err, api.CodeUsage, `unknown part "inti"`, "init")
	_, _, err = c.Build(testContext(t), api.BuildRequest{}, nil, nil)
	if err != nil {
		wantCode(t, err, api.CodeUsage)
	}
	_, _, err = c.Build(testContext(t), api.BuildRequest{Name: "shop"}, []client.Part{{Kind: "init", Name: "a.sql", Open: func() (io.ReadCloser, error) { return os.Open("/no/such/file") }}}, nil)
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "a.sql") {
		t.Errorf("a part that cannot be opened: %v", err)
	}

	// A build that fails while the client waits for what it is to send.
	fail(true)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	_, _, err = c.Build(testContext(t), api.BuildRequest{Name: "shop"}, []client.Part{{Kind: "init", Name: "pipe", Open: func() (io.ReadCloser, error) { return r, nil }}}, nil)
	wantCode(t, err, api.CodeConflict, "build shop")
}

// TestBuildEndsWithItsClient holds for a client that goes while the daemon does
// something else than read the body.
func TestBuildEndsWithItsClient(t *testing.T) {
	f := newFake()
	ended := make(chan error, 1)
	f.build = func(ctx context.Context, _ api.BuildRequest, _ func() (api.Part, error), events func(api.BuildEvent)) (api.Golden, bool, error) {
		events(api.BuildEvent{Type: api.EventID, BuildID: "b1"})
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return api.Golden{}, false, ctx.Err()
	}
	d, c := serve(t, f)
	enough := errors.New("enough")
	build := func() error {
		_, _, err := c.Build(testContext(t), api.BuildRequest{Name: "shop"}, []client.Part{part("dump", "d", strings.Repeat("x", 1<<20))},
			func(api.BuildEvent) error { return enough })
		return err
	}
	if err := build(); !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
	if cause := <-ended; errors.Is(cause, runtime.ErrStopping) {
		t.Error("a client that goes looks like a daemon that stops")
	}
	result := make(chan error, 1)
	begun := make(chan struct{}, 1)
	go func() {
		_, _, err := c.Build(testContext(t), api.BuildRequest{Name: "shop"}, nil, func(e api.BuildEvent) error {
			if e.Type == api.EventID {
				begun <- struct{}{}
			}
			return nil
		})
		result <- err
	}()
	<-begun
	d.stop()
	wantCode(t, <-result, api.CodeGeneral, "daemon is stopping")
	if cause := <-ended; !errors.Is(cause, runtime.ErrStopping) {
		t.Errorf("cause %v", cause)
	}
}

// TestBuildCut sends forms that are not whole. None may look like one.
func TestBuildCut(t *testing.T) {
	f := newFake()
	whole := make(chan bool, 1)
	f.build = func(_ context.Context, _ api.BuildRequest, next func() (api.Part, error), _ func(api.BuildEvent)) (api.Golden, bool, error) {
		_, err := spool(next)
		whole <- err == nil
		return api.Golden{Name: "shop"}, false, err
	}
	d, _ := serve(t, f)
	const body = "--B\r\nContent-Disposition: form-data; name=\"spec\"\r\n\r\n{\"name\":\"shop\"}\r\n" +
		"--B\r\nContent-Disposition: form-data; name=\"init\"; filename=\"a.sql\"\r\n\r\nselect 1\r\n--B--\r\n"
	send := func(b string) string {
		return raw(t, d.socket, fmt.Sprintf("POST /v1/goldens HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: multipart/form-data; boundary=B\r\nContent-Length: %d\r\n\r\n%s", len(b), b))
	}
	if got := send(body); !strings.Contains(got, `"type":"done"`) || !<-whole {
		t.Fatalf("a whole form: %s", got)
	}
	spec := strings.Index(body, "\r\n--B\r\nContent-Disposition: form-data; name=\"init\"")
	for n := spec + 6; n < len(body)-4; n++ {
		got := send(body[:n])
		if !strings.Contains(got, `"code":"usage"`) {
			t.Errorf("cut at %d: %s", n, got)
		}
		select {
		case ok := <-whole:
			if ok {
				t.Errorf("cut at %d (%q): taken for whole", n, body[:n])
			}
		default:
		}
	}
	for _, b := range []string{"", "--B--\r\n", strings.Replace(body, `"spec"`, `"init"`, 1), strings.Replace(body, `{"name"`, `{"nom"`, 1), strings.Replace(body, `; filename="a.sql"`, "", 1)} {
		if got := send(b); !strings.HasPrefix(got, "HTTP/1.1 400 ") || !strings.Contains(got, `"code":"usage"`) {
			t.Errorf("%q: %s", b, got)
		}
		select {
		case <-whole:
		default:
		}
	}
}

func TestBuildByCurl(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("needs curl")
	}
	f := newFake()
	var got []string
	f.build = func(_ context.Context, req api.BuildRequest, next func() (api.Part, error), events func(api.BuildEvent)) (api.Golden, bool, error) {
		events(api.BuildEvent{Type: api.EventID, BuildID: "b1"})
		var err error
		got, err = spool(next)
		return api.Golden{Name: req.Name}, false, err
	}
	d, _ := serve(t, f)
	dir := t.TempDir()
	big := strings.Repeat("-- comment\n", 1<<18)
	for name, content := range map[string]string{"spec.json": `{"name":"shop"}`, "a.sql": "select 1;", "b.sql": big} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(testContext(t), curl, "-sS", "--unix-socket", d.socket,
		"-F", "spec=@spec.json", "-F", "init=@a.sql", "-F", "init=@b.sql", "http://ctrsnap/v1/goldens")
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	if err != nil || len(lines) != 2 || !bytes.Contains(lines[1], []byte(`"type":"done"`)) {
		t.Errorf("%v: %s", err, out)
	}
	if want := []string{"init a.sql select 1;", "init b.sql " + big}; !slices.Equal(got, want) {
		t.Errorf("got %d parts", len(got))
	}
}
