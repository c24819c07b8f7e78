// Package client is the Go client of ctrsnapd's API.
//
// It imports a small part of the standard library and package api only: whoever uses it stays
// lean. Errors of the daemon are returned as *[api.Error]; so are a daemon that
// does not run and one that lets the caller not in. When ctx ends, the error is
// ctx's own.
package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client/http1"
)

// maxSocketPath is what fits into a sockaddr_un, without its final zero; see
// unix(7).
const maxSocketPath = 107

// Client speaks to one daemon, each request on a connection of its own. It is safe
// for concurrent use.
type Client struct {
	host     string
	socket   string
	protocol int
}

// New returns a client of the daemon at host, "unix:///PATH"; "" means
// [api.DefaultHost]. It does not connect.
func New(host string) (*Client, error) {
	if host == "" {
		host = api.DefaultHost
	}
	path, ok := strings.CutPrefix(host, "unix://")
	if !ok || !strings.HasPrefix(path, "/") || len(path) > maxSocketPath {
		return nil, &api.Error{
			Code:    api.CodeUsage,
			Message: fmt.Sprintf("invalid host %q", host),
			Hint:    fmt.Sprintf("use unix:///PATH with a path of at most %d bytes", maxSocketPath),
		}
	}
	return &Client{host: host, socket: path, protocol: api.Protocol}, nil
}

type sentKey struct{}

// OnSent returns a context that has sent called when a request is out and the
// daemon works on it: what sent does costs the caller no time. It is called once
// for each request, from the request's goroutine.
func OnSent(ctx context.Context, sent func()) context.Context {
	return context.WithValue(ctx, sentKey{}, sent)
}

// Host returns where the daemon is, as given to New.
func (c *Client) Host() string { return c.host }

// Version says who the daemon is.
func (c *Client) Version(ctx context.Context) (api.Version, error) {
	return get[api.Version](ctx, c, "/v1/version", nil)
}

// Doctor returns the daemon's view of its host.
func (c *Client) Doctor(ctx context.Context) (api.Doctor, error) {
	return get[api.Doctor](ctx, c, "/v1/doctor", nil)
}

func get[T any](ctx context.Context, c *Client, path string, query url.Values) (T, error) {
	return call[T](ctx, c, "GET", path, query, nil)
}

// call sends in as JSON, if it is not nil, and reads the answer.
func call[T any](ctx context.Context, c *Client, method, path string, query url.Values, in any) (T, error) {
	var out T
	resp, err := c.sendJSON(ctx, method, path, query, in)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		return out, c.explain(ctx, fmt.Errorf("read answer to %s %s: %w", method, path, err))
	}
	return out, nil
}

// callNoContent is call where there is nothing to read.
func (c *Client) callNoContent(ctx context.Context, method, path string, in any) error {
	path, query, _ := strings.Cut(path, "?")
	values, err := url.ParseQuery(query)
	if err != nil {
		return err
	}
	resp, err := c.sendJSON(ctx, method, path, values, in)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

func (c *Client) sendJSON(ctx context.Context, method, path string, query url.Values, in any) (*http1.Response, error) {
	var req http1.Request
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("encode request %s %s: %w", method, path, err)
		}
		req.Header, req.Body = map[string]string{"Content-Type": "application/json"}, b
	}
	return c.send(ctx, method, path, query, req)
}

// send does one request. The protocol version travels with it, so that no
// round trip is needed ahead. An answer that is an error becomes one.
func (c *Client) send(ctx context.Context, method, path string, query url.Values, req http1.Request) (*http1.Response, error) {
	if req.Method, req.Path = method, path; len(query) > 0 {
		req.Path += "?" + query.Encode()
	}
	if req.Header == nil {
		req.Header = map[string]string{}
	}
	req.Header[api.HeaderProtocol] = strconv.Itoa(c.protocol)
	if moved, ok := ctx.Value(queueKey{}).(func(int, time.Duration)); ok {
		req.Header[api.HeaderQueue] = "1"
		req.Interim = func(h http1.Header) { tellQueue(h, moved) }
	}
	req.Sent, _ = ctx.Value(sentKey{}).(func())
	resp, err := c.exchange(ctx, &req)
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		return nil, c.readError(resp)
	}
	return resp, nil
}

func (c *Client) exchange(ctx context.Context, req *http1.Request) (*http1.Response, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.socket)
	if err != nil {
		if req.Stream != nil {
			_ = req.Stream.Close()
		}
		return nil, err
	}
	return http1.Do(ctx, conn, req)
}
