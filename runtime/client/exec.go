package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client/http1"
)

// Exec runs a command in a clone and returns its exit code. Streams that are nil
// are empty or discarded. Sizes of the terminal are taken from resize until it
// is closed or the command has ended; nil is allowed. When ctx ends, the
// command is killed.
//
// A Read of stdin that is pending when the command ends is left behind: nothing
// can end it.
func (c *Client) Exec(ctx context.Context, id string, req api.ExecRequest, stdin io.Reader, stdout, stderr io.Writer, resize <-chan api.WindowSize) (int, error) {
	conn, err := c.upgrade(ctx, id)
	if err != nil {
		return 0, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()

	x := &execution{conn: conn, ended: make(chan struct{})}
	defer close(x.ended)
	b, err := json.Marshal(req)
	if err != nil {
		return 0, fmt.Errorf("encode exec request: %w", err)
	}
	if err := x.write(api.StreamRequest, b); err != nil {
		return 0, c.explain(ctx, fmt.Errorf("send exec request: %w", err))
	}
	go x.sendStdin(stdin)
	go x.sendSizes(resize)
	code, err := x.receive(orDiscard(stdout), orDiscard(stderr))
	if err != nil {
		return 0, c.explainExec(ctx, err)
	}
	return code, nil
}

// upgrade asks for an exec in a clone and returns the connection that frames go over.
func (c *Client) upgrade(ctx context.Context, id string) (io.ReadWriteCloser, error) {
	header := map[string]string{"Connection": "Upgrade", "Upgrade": api.ExecProtocol}
	resp, err := open(ctx, c, api.ExecInClone, api.CloneArgs{ID: id}, http1.Request{Header: header})
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http1.SwitchingProtocols {
		defer resp.Body.Close()
		return nil, c.readError(resp)
	}
	return resp.Body, nil
}

func (c *Client) explainExec(ctx context.Context, err error) error {
	var own *api.Error
	var output *outputError
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &output) && ctx.Err() == nil:
		return output.error
	default:
		return c.explain(ctx, err)
	}
}

// execution is one exec in progress.
type execution struct {
	conn  io.ReadWriteCloser
	ended chan struct{}

	mu sync.Mutex // serialises writes to conn
}

func (x *execution) write(s api.Stream, p []byte) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return api.WriteFrame(x.conn, s, p)
}

// sendStdin passes stdin on. An error of the connection is left to receive,
// which sees it too.
func (x *execution) sendStdin(stdin io.Reader) {
	if stdin != nil {
		buf := make([]byte, api.MaxFrame)
		for {
			n, err := stdin.Read(buf)
			if n > 0 && x.write(api.StreamStdin, buf[:n]) != nil {
				return
			}
			if err != nil {
				break
			}
		}
	}
	_ = x.write(api.StreamStdinClose, nil)
}

func (x *execution) sendSizes(resize <-chan api.WindowSize) {
	for {
		select {
		case <-x.ended:
			return
		case size, ok := <-resize:
			if !ok || x.write(api.StreamResize, api.AppendSize(nil, size)) != nil {
				return
			}
		}
	}
}

// outputError is an error of the caller's own writer.
type outputError struct{ error }

// receive passes output on until the command has ended.
func (x *execution) receive(stdout, stderr io.Writer) (int, error) {
	buf := make([]byte, api.MaxFrame)
	for {
		s, p, err := api.ReadFrame(x.conn, buf)
		if err != nil {
			return 0, fmt.Errorf("read exec output: %w", err)
		}
		switch s {
		case api.StreamStdout:
			_, err = stdout.Write(p)
		case api.StreamStderr:
			_, err = stderr.Write(p)
		case api.StreamExit:
			return api.ParseExit(p)
		case api.StreamError:
			e := &api.Error{}
			if err := json.Unmarshal(p, e); err != nil {
				return 0, fmt.Errorf("read exec error: %w", err)
			}
			return 0, e
		}
		if err != nil {
			return 0, &outputError{fmt.Errorf("write exec output: %w", err)}
		}
	}
}

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}
