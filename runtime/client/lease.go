package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client/http1"
)

// How long to wait between attempts to take a lease again. No attempt is the last: clones live on without the daemon,
// which leaves the lease time once it serves again.
const (
	leaseRetryMin = 10 * time.Millisecond
	leaseRetryMax = time.Second
)

// Lease is held until Close, or until it is lost. It outlives its connection: whatever ends that, and however long the
// daemon is away, the lease is taken again. It is lost only when the daemon says that it has ended, or that it is not
// the caller's.
type Lease struct {
	client *Client
	id     string
	cancel context.CancelFunc
	done   chan struct{}
	err    error // set before done is closed
}

// HoldLease takes a lease and returns once the daemon has said that it is held. A daemon that is away is waited for, as
// later on. The lease is held until ctx ends or it is closed.
func (c *Client) HoldLease(ctx context.Context, id string) (*Lease, error) {
	ctx, cancel := context.WithCancel(ctx)
	l := &Lease{client: c, id: id, cancel: cancel, done: make(chan struct{})}
	body, err := l.retake(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	go l.hold(context.WithValue(ctx, awayKey{}, nil), body)
	return l, nil
}

// Done is closed when the lease is no longer held.
func (l *Lease) Done() <-chan struct{} { return l.done }

// Err says why the lease was lost. It is nil while it is held, and once the
// caller itself has ended it.
func (l *Lease) Err() error {
	select {
	case <-l.done:
		return l.err
	default:
		return nil
	}
}

// Close gives the lease up; the daemon then removes what lives by it. It is
// idempotent.
func (l *Lease) Close() {
	l.cancel()
	<-l.done
}

// hold follows the lease from connection to connection.
func (l *Lease) hold(ctx context.Context, body *leaseBody) {
	defer close(l.done)
	defer l.cancel()
	for {
		err := body.wait()
		body.Close()
		if err == nil {
			body, err = l.retake(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			l.err = err
			return
		}
	}
}

// retake opens the lease again, until the daemon says that it is lost or ctx ends.
func (l *Lease) retake(ctx context.Context) (*leaseBody, error) {
	for pause := leaseRetryMin; ; pause = min(2*pause, leaseRetryMax) {
		body, err := l.client.openLease(ctx, l.id)
		if err == nil || lost(err) {
			return body, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// lost says whether the daemon refused the lease itself. All else is about the daemon, or the way to it.
func lost(err error) bool {
	var e *api.Error
	return errors.As(err, &e) && e.Status >= 400 && e.Status < 500
}

// leaseBody is the open answer that holds a lease.
type leaseBody struct {
	io.Closer
	lines *bufio.Reader
}

func (c *Client) openLease(ctx context.Context, id string) (*leaseBody, error) {
	resp, err := open(ctx, c, api.HoldLease, api.LeaseArgs{ID: id}, http1.Request{})
	if err != nil {
		return nil, err
	}
	body := &leaseBody{resp.Body, bufio.NewReader(resp.Body)}
	if _, err := body.lines.ReadBytes('\n'); err != nil {
		body.Close()
		return nil, c.explain(ctx, fmt.Errorf("take lease %s: %w", id, err))
	}
	return body, nil
}

// wait returns when the connection is lost or the daemon stops, or with the daemon's word that the lease is lost.
func (b *leaseBody) wait() error {
	for {
		line, err := b.lines.ReadBytes('\n')
		if err != nil {
			return nil
		}
		var end api.ErrorBody
		if json.Unmarshal(line, &end) != nil || end.Error == nil {
			continue
		}
		if end.Error.Retryable {
			return nil
		}
		return end.Error
	}
}
