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
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"syscall"
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

type queueKey struct{}

// OnQueue returns a context that has a request for clones tell moved of its place in the queue, from 1, and the time
// that it may take. moved is called before the request is answered, from its goroutine.
func OnQueue(ctx context.Context, moved func(place int, estimate time.Duration)) context.Context {
	return context.WithValue(ctx, queueKey{}, moved)
}

// How long a request waits for a daemon that is away, and how often it looks.
const (
	awayMost  = 10 * time.Second
	awayPause = 50 * time.Millisecond
)

// unavailable is the status by which a daemon says, among else, that it is stopping.
const unavailable = 503

type awayKey struct{}

// OnAway returns a context by which a request waits up to ten seconds for a daemon that is restarting: one that says
// that it is stopping, or that does not answer at a socket whose directory is there. Nothing has been done then. tell is
// called once, before the wait.
func OnAway(ctx context.Context, tell func()) context.Context {
	return context.WithValue(ctx, awayKey{}, tell)
}

// awaited does a request, again where it has to wait for the daemon.
func (c *Client) awaited(ctx context.Context, req http1.Request) (*http1.Response, error) {
	tell, patient := ctx.Value(awayKey{}).(func())
	for began, told := time.Now(), false; ; told = true {
		again := req
		resp, err := c.answer(ctx, &again)
		if err == nil || !patient || req.Stream != nil || time.Since(began) > awayMost || !c.isAway(err) {
			return resp, err
		}
		if !told {
			tell()
		}
		if again.Sent == nil {
			req.Sent = nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(awayPause):
		}
	}
}

// answer does one request. An answer that is an error becomes one.
func (c *Client) answer(ctx context.Context, req *http1.Request) (*http1.Response, error) {
	if sent := req.Sent; sent != nil {
		req.Sent = func() { req.Sent = nil; sent() }
	}
	resp, err := c.exchange(ctx, req)
	if err != nil || resp.StatusCode < 300 {
		return resp, err
	}
	defer resp.Body.Close()
	return nil, c.readError(resp)
}

// isAway says whether a daemon was met that stops, or none where one has been.
func (c *Client) isAway(err error) bool {
	var e *api.Error
	if errors.As(err, &e) {
		return e.Status == unavailable && e.Retryable && strings.Contains(e.Message, "daemon is stopping")
	}
	var dial *net.OpError
	if !errors.As(err, &dial) || dial.Op != "dial" {
		return false
	}
	_, noDir := os.Stat(filepath.Dir(c.socket))
	return noDir == nil && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED))
}

// tellQueue reads a place in the queue from the header of an answer on the way.
func tellQueue(h http1.Header, moved func(place int, estimate time.Duration)) {
	place, estimate, _ := strings.Cut(h.Get(api.HeaderQueue), " ")
	n, err := strconv.Atoi(place)
	if err != nil {
		return // of something else
	}
	d, _ := time.ParseDuration(estimate)
	moved(n, d)
}

// Host returns where the daemon is, as given to New.
func (c *Client) Host() string { return c.host }

// Do sends a request by a route and returns the answer.
func Do[Req, Resp any](ctx context.Context, c *Client, r api.Route[Req, Resp], args Req) (Resp, error) {
	var out Resp
	resp, err := open(ctx, c, r, args, http1.Request{})
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	if _, none := any(out).(api.None); none {
		return out, nil
	}
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		return out, c.explain(ctx, fmt.Errorf("read answer to %s %s: %w", r.Method, r.Path, err))
	}
	return out, nil
}

// Tell is Do where nothing is answered.
func Tell[Req any](ctx context.Context, c *Client, r api.Route[Req, api.None], args Req) error {
	_, err := Do(ctx, c, r, args)
	return err
}

// open sends a request, which may have a header and a body of its own already. The caller closes the answer's body.
func open[Req, Resp any](ctx context.Context, c *Client, r api.Route[Req, Resp], args Req, req http1.Request) (*http1.Response, error) {
	if req.Header == nil {
		req.Header = map[string]string{}
	}
	target, body := encode(r.Path, args)
	req.Method, req.Path = r.Method, target
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encode request %s %s: %w", r.Method, r.Path, err)
		}
		req.Header["Content-Type"], req.Body = "application/json", b
	}
	return c.send(ctx, req)
}

// encode returns where a request with args goes, and its body, nil if it has none; see [api.Route].
func encode(path string, args any) (target string, body any) {
	query := url.Values{}
	for v, i := reflect.ValueOf(args), 0; i < v.NumField(); i++ {
		field, value := v.Type().Field(i), v.Field(i)
		if name, ok := field.Tag.Lookup("path"); ok {
			path = strings.Replace(path, "{"+name+"}", url.PathEscape(value.String()), 1)
		}
		if name, ok := field.Tag.Lookup("query"); ok {
			name, _, _ = strings.Cut(name, ",")
			_, always := field.Tag.Lookup("default")
			if list, many := value.Interface().([]string); many {
				query[name] = list
			} else if always || !value.IsZero() {
				query.Set(name, fmt.Sprint(value.Interface()))
			}
		}
		if field.Name == "Body" {
			body = value.Interface()
		}
	}
	if q := query.Encode(); q != "" {
		path += "?" + q
	}
	return path, body
}

// send does one request. The protocol version travels with it, so that no round trip is needed ahead.
func (c *Client) send(ctx context.Context, req http1.Request) (*http1.Response, error) {
	req.Header[api.HeaderProtocol] = strconv.Itoa(c.protocol)
	if moved, ok := ctx.Value(queueKey{}).(func(int, time.Duration)); ok {
		req.Header[api.HeaderQueue] = "1"
		req.Interim = func(h http1.Header) { tellQueue(h, moved) }
	}
	req.Sent, _ = ctx.Value(sentKey{}).(func())
	resp, err := c.awaited(ctx, req)
	var e *api.Error
	if err != nil && !errors.As(err, &e) {
		err = c.explain(ctx, err)
	}
	return resp, err
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
