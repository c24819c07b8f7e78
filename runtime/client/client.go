// Package client is the Go client of ctrsnapd's API.
//
// It imports the standard library and package api only: whoever uses it stays
// lean. Errors of the daemon are returned as *[api.Error]; so are a daemon that
// does not run and one that lets the caller not in. When ctx ends, the error is
// ctx's own.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// maxSocketPath is what fits into a sockaddr_un, without its final zero; see
// unix(7).
const maxSocketPath = 107

// Client speaks to one daemon. It is safe for concurrent use.
type Client struct {
	host     string
	http     *http.Client
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
	dial := func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	transport := &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableCompression: true,
	}
	return &Client{host: host, http: &http.Client{Transport: &direct{dial, transport}}, protocol: api.Protocol}, nil
}

// OnSent returns a context that has sent called when a request is out and the
// daemon works on it: what sent does costs the caller no time. It may be called
// from another goroutine, and once for each request.
func OnSent(ctx context.Context, sent func()) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest: func(httptrace.WroteRequestInfo) { sent() },
	})
}

// Host returns where the daemon is, as given to New.
func (c *Client) Host() string { return c.host }

// Close closes connections that are not in use. The client stays usable.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Version says who the daemon is.
func (c *Client) Version(ctx context.Context) (api.Version, error) {
	return get[api.Version](ctx, c, "/v1/version", nil)
}

// Doctor returns the daemon's view of its host.
func (c *Client) Doctor(ctx context.Context) (api.Doctor, error) {
	return get[api.Doctor](ctx, c, "/v1/doctor", nil)
}

func get[T any](ctx context.Context, c *Client, path string, query url.Values) (T, error) {
	return call[T](ctx, c, http.MethodGet, path, query, nil)
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

func (c *Client) sendJSON(ctx context.Context, method, path string, query url.Values, in any) (*http.Response, error) {
	if in == nil {
		return c.send(ctx, method, path, query, nil, nil)
	}
	b, err := json.Marshal(in)
	if err != nil {
		return nil, fmt.Errorf("encode request %s %s: %w", method, path, err)
	}
	return c.send(ctx, method, path, query, http.Header{"Content-Type": {"application/json"}}, bytes.NewReader(b))
}

// send does one request. The protocol version travels with it, so that no
// round trip is needed ahead. An answer that is an error becomes one.
func (c *Client) send(ctx context.Context, method, path string, query url.Values, header http.Header, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://ctrsnap"+path, body)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	req.URL.RawQuery = query.Encode()
	for k, v := range header {
		req.Header[k] = v
	}
	req.Header.Set(api.HeaderProtocol, strconv.Itoa(c.protocol))
	if ctx.Value(queueKey{}) != nil {
		req.Header.Set(api.HeaderQueue, "1")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		return nil, c.readError(resp)
	}
	return resp, nil
}
