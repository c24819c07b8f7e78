package server

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// How long a client may take for its first frame, and for closing the
// connection after our last.
const (
	execRequestTime = 10 * time.Second
	execCloseTime   = 5 * time.Second
)

func (s *Server) exec(w http.ResponseWriter, r *http.Request, in *api.CloneArgs) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), api.ExecProtocol) {
		s.refuse(r.Context(), w, usage(http.StatusBadRequest, "invalid request: exec needs an upgrade of the connection", "send Connection: Upgrade and Upgrade: "+api.ExecProtocol))
		return
	}
	w.Header().Set("Connection", "Upgrade")
	w.Header().Set("Upgrade", api.ExecProtocol)
	w.WriteHeader(http.StatusSwitchingProtocols)
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		s.log.ErrorContext(r.Context(), "take over connection", "request", callOf(r.Context()).id, "error", err)
		return
	}
	defer conn.Close()
	ctx, done := s.stream(r)
	defer done()
	x := &execution{conn: conn, in: rw.Reader, server: s}
	x.serve(ctx, in.ID)
}

// execution is one exec in progress.
type execution struct {
	server *Server
	conn   net.Conn
	in     *bufio.Reader

	mu sync.Mutex // serialises writes to conn
}

func (x *execution) serve(ctx context.Context, id string) {
	// A client that does not read must not hold up the end.
	forget := context.AfterFunc(ctx, func() { _ = x.conn.SetDeadline(time.Now().Add(time.Second)) })
	defer forget()
	req, err := x.request()
	if err != nil {
		x.last(ctx, 0, err)
		return
	}
	x.run(ctx, id, req)
}

func (x *execution) request() (api.ExecRequest, error) {
	_ = x.conn.SetReadDeadline(time.Now().Add(execRequestTime))
	defer func() { _ = x.conn.SetReadDeadline(time.Time{}) }()
	stream, p, err := api.ReadFrame(x.in, nil)
	if err != nil {
		return api.ExecRequest{}, badBody(err)
	}
	if stream != api.StreamRequest {
		return api.ExecRequest{}, badBody(fmt.Errorf("the first frame is of stream %d, want %d", stream, api.StreamRequest))
	}
	return decode[api.ExecRequest](x.server.huma.OpenAPI().Components.Schemas, strings.NewReader(string(p)))
}

// run runs the command while frames come in.
func (x *execution) run(ctx context.Context, id string, req api.ExecRequest) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stdin, feed := io.Pipe()
	sizes := make(chan runtime.WindowSize, 1)
	if req.Rows > 0 && req.Cols > 0 {
		sizes <- runtime.WindowSize{Rows: req.Rows, Cols: req.Cols}
	}
	received := make(chan struct{})
	go func() {
		defer close(received)
		defer close(sizes)
		err := x.receive(feed, sizes)
		feed.CloseWithError(err)
		cancel(err)
	}()
	stdio := runtime.Stdio{Stdin: stdin, Stdout: &frames{x, api.StreamStdout}, Stderr: &frames{x, api.StreamStderr}}
	code, err := x.server.clones.Exec(ctx, callOf(ctx).caller, id, req, stdio, sizes)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	stdin.CloseWithError(io.ErrClosedPipe) // what still comes is dropped
	x.last(ctx, code, err)
	// The client closes once it has read the last frame. To close first could
	// take that frame from it.
	_ = x.conn.SetReadDeadline(time.Now().Add(execCloseTime))
	<-received
}

// receive takes frames until the client goes, and says why it ended. A command
// that does not read its stdin holds it up; that the client is gone is then
// noticed by the request's context.
func (x *execution) receive(stdin *io.PipeWriter, sizes chan runtime.WindowSize) error {
	buf := make([]byte, api.MaxFrame)
	for {
		stream, p, err := api.ReadFrame(x.in, buf)
		var netErr net.Error
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &netErr):
			return context.Canceled
		case err != nil:
			return badBody(err)
		}
		switch stream {
		case api.StreamStdin:
			_, _ = stdin.Write(p) // fails once the command has ended
		case api.StreamStdinClose:
			_ = stdin.Close()
		case api.StreamResize:
			size, err := api.ParseSize(p)
			if err != nil {
				return badBody(err)
			}
			replace(sizes, runtime.WindowSize(size))
		default:
			return badBody(fmt.Errorf("frame of stream %d", stream))
		}
	}
}

// replace puts size into the channel, in place of one that nobody took.
func replace(sizes chan runtime.WindowSize, size runtime.WindowSize) {
	select {
	case <-sizes:
	default:
	}
	sizes <- size // there is room: nobody else sends
}

// last sends the last frame. The client may be gone.
func (x *execution) last(ctx context.Context, code int, err error) {
	if err == nil {
		_ = x.write(api.StreamExit, api.AppendExit(nil, code))
		return
	}
	e := *x.server.fail(ctx, err).ErrorBody.Error
	e.Message = e.Message[:min(len(e.Message), api.MaxFrame/8)] // as JSON, six times that at most
	if b, err := json.Marshal(e); err == nil {
		_ = x.write(api.StreamError, b)
	}
}

func (x *execution) write(stream api.Stream, p []byte) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return api.WriteFrame(x.conn, stream, p)
}

// frames writes to one stream.
type frames struct {
	x      *execution
	stream api.Stream
}

func (f *frames) Write(p []byte) (int, error) {
	n := 0
	for chunk := range slices.Chunk(p, api.MaxFrame) {
		if err := f.x.write(f.stream, chunk); err != nil {
			return n, fmt.Errorf("send output: %w", err)
		}
		n += len(chunk)
	}
	return n, nil
}
