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

// How a lease is taken up again after its connection was lost.
const (
	leaseRetryMin = 10 * time.Millisecond
	leaseRetryMax = time.Second
	leaseGiveUp   = 30 * time.Second
)

// Lease is held until Close, or until it is lost. A daemon that restarts does
// not end it: the lease is taken up again.
type Lease struct {
	client *Client
	id     string
	cancel context.CancelFunc
	done   chan struct{}
	err    error // set before done is closed
}

// HoldLease takes a lease and returns once the daemon has said that it is held.
// It is held until ctx ends or the lease is closed.
func (c *Client) HoldLease(ctx context.Context, id string) (*Lease, error) {
	ctx, cancel := context.WithCancel(ctx)
	body, err := c.openLease(ctx, id)
	if err != nil {
		cancel()
		return nil, err
	}
	l := &Lease{client: c, id: id, cancel: cancel, done: make(chan struct{})}
	go l.hold(ctx, body)
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

// retake opens the lease again, for as long as a daemon may take to restart.
func (l *Lease) retake(ctx context.Context) (*leaseBody, error) {
	giveUp := time.Now().Add(leaseGiveUp)
	for pause := leaseRetryMin; ; pause = min(2*pause, leaseRetryMax) {
		body, err := l.client.openLease(ctx, l.id)
		if err == nil || lost(err) || time.Now().After(giveUp) {
			return body, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
}

// lost says whether the daemon itself refused the lease, and will again.
func lost(err error) bool {
	var e *api.Error
	return errors.As(err, &e) && e.Code != api.CodeGeneral
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

// wait returns when the connection is lost, or with the daemon's word that the
// lease is.
func (b *leaseBody) wait() error {
	for {
		line, err := b.lines.ReadBytes('\n')
		if err != nil {
			return nil
		}
		var end api.ErrorBody
		if json.Unmarshal(line, &end) == nil && end.Error != nil {
			return end.Error
		}
	}
}
