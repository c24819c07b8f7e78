package client

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"time"
)

// direct does each request on a connection of its own, in the caller's goroutine. To
// a program that asks one thing and ends, http.Transport's two goroutines for a
// connection and its keeping of them cost more than the request.
type direct struct {
	dial func(ctx context.Context) (net.Conn, error)
	// next is for requests whose answer may come before all is sent, and for
	// those that leave HTTP.
	next http.RoundTripper
}

// RoundTrip implements [http.RoundTripper].
func (d *direct) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	if req.Body != nil && req.GetBody == nil || req.Header.Get("Upgrade") != "" {
		return d.next.RoundTrip(req)
	}
	conn, err := d.dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	resp, err := exchange(conn, req)
	if err != nil {
		stop()
		_ = conn.Close() // the first error tells more
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, err
	}
	resp.Body = &body{resp.Body, conn, stop}
	return resp, nil
}

// exchange sends a request and reads the answer as far as its body. Answers of
// class 1xx go to the request's trace, as Request.Write's word that it is out does.
func exchange(conn net.Conn, req *http.Request) (*http.Response, error) {
	once := *req
	once.Close = true
	if err := once.Write(conn); err != nil {
		return nil, err
	}
	trace := httptrace.ContextClientTrace(req.Context())
	for r := bufio.NewReader(conn); ; {
		resp, err := http.ReadResponse(r, req)
		if err != nil || resp.StatusCode >= 200 {
			return resp, err
		}
		if trace != nil && trace.Got1xxResponse != nil {
			if err := trace.Got1xxResponse(resp.StatusCode, textproto.MIMEHeader(resp.Header)); err != nil {
				return nil, err
			}
		}
	}
}

// body is that of an answer; its connection goes with it.
type body struct {
	rest io.Reader
	conn net.Conn
	stop func() bool
}

func (b *body) Read(p []byte) (int, error) { return b.rest.Read(p) }

func (b *body) Close() error {
	b.stop()
	return b.conn.Close()
}
