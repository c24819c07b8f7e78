package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

func withClone(f *fake) *fake {
	f.clones["c1"] = api.Clone{ID: "c1"}
	return f
}

func cat(_ context.Context, req api.ExecRequest, stdio runtime.Stdio, _ <-chan runtime.WindowSize) (int, error) {
	fmt.Fprint(stdio.Stderr, strings.Join(req.Args, " "))
	_, err := io.Copy(stdio.Stdout, stdio.Stdin)
	return 42, err
}

// TestExec sends much in both directions at once.
func TestExec(t *testing.T) {
	f := withClone(newFake())
	f.exec = cat
	_, c := serve(t, f)
	const size = 16 << 20
	in, out := sha256.New(), sha256.New()
	var stderr strings.Builder
	code, err := c.Exec(testContext(t), "c1", api.ExecRequest{Args: []string{"cat", "-"}},
		io.TeeReader(io.LimitReader(&counter{}, size), in), out, &stderr, nil)
	if err != nil || code != 42 || stderr.String() != "cat -" {
		t.Errorf("exec: %d, %v, stderr %q", code, err, stderr.String())
	}
	if !bytes.Equal(in.Sum(nil), out.Sum(nil)) {
		t.Error("output differs from input")
	}
	code, err = c.Exec(testContext(t), "c1", api.ExecRequest{Args: []string{"true"}}, nil, nil, nil, nil)
	if err != nil || code != 42 {
		t.Errorf("exec without streams: %d, %v", code, err)
	}
}

// counter gives bytes that differ.
type counter struct{ n byte }

func (c *counter) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = c.n
		c.n += 7
	}
	return len(p), nil
}

func TestExecErrors(t *testing.T) {
	f := withClone(newFake())
	f.exec = func(context.Context, api.ExecRequest, runtime.Stdio, <-chan runtime.WindowSize) (int, error) {
		return 0, fmt.Errorf("find program: %w", errdefs.ErrNotFound)
	}
	_, c := serve(t, f)
	_, err := c.Exec(testContext(t), "c2", api.ExecRequest{Args: []string{"x"}}, nil, nil, nil, nil)
	wantCode(t, err, api.CodeNotFound, "clone c2", "ctrsnap ls")
	_, err = c.Exec(testContext(t), "c1", api.ExecRequest{Args: []string{"x"}}, nil, nil, nil, nil)
	wantCode(t, err, api.CodeNotFound, "find program")
	_, err = c.Exec(testContext(t), "c1", api.ExecRequest{}, nil, nil, nil, nil)
	wantCode(t, err, api.CodeUsage, "args: expected array")
	f.exec = func(context.Context, api.ExecRequest, runtime.Stdio, <-chan runtime.WindowSize) (int, error) {
		return 0, errors.New(strings.Repeat("\x01", 1<<20))
	}
	_, err = c.Exec(testContext(t), "c1", api.ExecRequest{Args: []string{"x"}}, nil, nil, nil, nil)
	wantCode(t, err, api.CodeGeneral)
}

// TestExecEndsBeforeStdin holds that a command need not read what it is sent.
func TestExecEndsBeforeStdin(t *testing.T) {
	f := withClone(newFake())
	f.exec = func(context.Context, api.ExecRequest, runtime.Stdio, <-chan runtime.WindowSize) (int, error) {
		return 3, nil
	}
	_, c := serve(t, f)
	code, err := c.Exec(testContext(t), "c1", api.ExecRequest{Args: []string{"true"}}, io.LimitReader(&counter{}, 32<<20), nil, nil, nil)
	if err != nil || code != 3 {
		t.Errorf("exec: %d, %v", code, err)
	}
}

func TestExecResize(t *testing.T) {
	f := withClone(newFake())
	asked := make(chan struct{})
	f.exec = func(_ context.Context, _ api.ExecRequest, stdio runtime.Stdio, size <-chan runtime.WindowSize) (int, error) {
		fmt.Fprintln(stdio.Stdout, <-size)
		close(asked)
		fmt.Fprintln(stdio.Stdout, <-size)
		return 0, nil
	}
	_, c := serve(t, f)
	sizes := make(chan api.WindowSize)
	go func() {
		<-asked
		sizes <- api.WindowSize{Rows: 50, Cols: 300}
		close(sizes)
	}()
	var out strings.Builder
	_, err := c.Exec(testContext(t), "c1", api.ExecRequest{Args: []string{"sh"}, Terminal: true, Rows: 24, Cols: 80}, nil, &out, nil, sizes)
	if diff := cmp.Diff("{24 80}\n{50 300}\n", out.String()); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
}

// TestExecEndsWithItsClient holds also for a command that reads no stdin while
// there is some.
func TestExecEndsWithItsClient(t *testing.T) {
	f := withClone(newFake())
	begun, ended := make(chan struct{}, 1), make(chan error, 1)
	f.exec = func(ctx context.Context, _ api.ExecRequest, _ runtime.Stdio, _ <-chan runtime.WindowSize) (int, error) {
		begun <- struct{}{}
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return 137, ctx.Err()
	}
	d, c := serve(t, f)
	for _, stdin := range []io.Reader{nil, io.LimitReader(&counter{}, 32<<20)} {
		ctx, cancel := context.WithCancel(testContext(t))
		go func() {
			<-begun
			cancel()
		}()
		if _, err := c.Exec(ctx, "c1", api.ExecRequest{Args: []string{"sleep"}}, stdin, nil, nil, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		<-ended
	}
	result := make(chan error, 1)
	go func() {
		_, err := c.Exec(testContext(t), "c1", api.ExecRequest{Args: []string{"sleep"}}, nil, nil, nil, nil)
		result <- err
	}()
	<-begun
	d.stop()
	wantCode(t, <-result, api.CodeGeneral, "daemon is stopping")
	<-ended
}

// TestExecWrongFrames speaks the protocol wrongly.
func TestExecWrongFrames(t *testing.T) {
	f := withClone(newFake())
	f.exec = cat
	d, _ := serve(t, f)
	request := frame(api.StreamRequest, `{"args":["cat"]}`)
	for name, tt := range map[string]struct{ sent, says string }{
		"no request":       {frame(api.StreamStdin, "x"), "first frame"},
		"not JSON":         {frame(api.StreamRequest, "x"), "invalid character"},
		"unknown field":    {frame(api.StreamRequest, `{"args":[],"cwdd":"/"}`), "cwdd: unexpected property"},
		"unknown stream":   {"\xff\x00\x00\x00\x00", "unknown stream 255"},
		"too long":         {request + "\x01\xff\xff\xff\xff", "at most 65536"},
		"daemon's stream":  {request + frame(api.StreamExit, "\x00\x00\x00\x00"), "frame of stream 6"},
		"second request":   {request + request, "frame of stream 0"},
		"size of one byte": {request + frame(api.StreamResize, "x"), "want 4"},
	} {
		conn := upgraded(t, d.socket)
		_, _ = io.WriteString(conn, tt.sent)
		stream, p := lastFrame(t, conn)
		if stream != api.StreamError || !strings.Contains(string(p), tt.says) || !strings.Contains(string(p), `"code":"usage"`) {
			t.Errorf("%s: stream %d, %s", name, stream, p)
		}
		conn.Close()
	}
}

func frame(s api.Stream, payload string) string {
	var b bytes.Buffer
	if err := api.WriteFrame(&b, s, []byte(payload)); err != nil {
		panic(err)
	}
	return b.String()
}

// upgraded returns a connection that speaks frames.
func upgraded(t *testing.T, socket string) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(conn, "POST /v1/clones/c1/exec HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: ctrsnap-exec\r\n\r\n")
	var head strings.Builder
	for b := make([]byte, 1); !strings.HasSuffix(head.String(), "\r\n\r\n"); {
		if _, err := conn.Read(b); err != nil {
			t.Fatalf("%v after %q", err, head.String())
		}
		head.Write(b)
	}
	if !strings.HasPrefix(head.String(), "HTTP/1.1 101 ") || !strings.Contains(head.String(), "Upgrade: ctrsnap-exec\r\n") {
		t.Fatalf("head %q", head.String())
	}
	return conn
}

func lastFrame(t *testing.T, conn net.Conn) (api.Stream, []byte) {
	t.Helper()
	for {
		stream, p, err := api.ReadFrame(conn, nil)
		if err != nil {
			t.Fatal(err)
		}
		if stream == api.StreamExit || stream == api.StreamError {
			return stream, p
		}
	}
}
