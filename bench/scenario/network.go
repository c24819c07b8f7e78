package scenario

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/ctrsnap/ctrsnap/bench/peer"
	"github.com/ctrsnap/ctrsnap/bench/recorder"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// network measures what the clones' network costs: to make one with it and without,
// and to reach one by an address and by the unix socket.
func network(ctx context.Context, t *take) error {
	const golden = "app"
	if err := t.unpooled(ctx, golden); err != nil {
		return err
	}
	with, without := recorder.New("cold_default", golden, "ms"), recorder.New("cold_none", golden, "ms")
	err := interleaveFor(ctx, t, t.Span/2, warmUp, t.rounds(60), []*recorder.Recorder{with, without},
		func(ctx context.Context, _ int) error { return t.coldOn(ctx, golden, nil, with) },
		func(ctx context.Context, _ int) error { return t.coldOn(ctx, golden, []string{"none"}, without) })
	t.keep(with, without)
	if err != nil {
		return err
	}
	return t.ways(ctx, golden)
}

// coldOn measures a clone on some networks.
func (t *take) coldOn(ctx context.Context, golden string, networks []string, r *recorder.Recorder) error {
	c, took, _, err := t.cloneAs(ctx, api.CloneRequest{Golden: golden, Networks: networks})
	if err != nil {
		return err
	}
	if err := errors.Join(checkRows(ctx, endpoint(c)), t.remove(ctx, c.ID)); err != nil {
		return err
	}
	r.AddDuration(took)
	for stage, ms := range c.Timings {
		r.AddStage(string(stage), ms)
	}
	return nil
}

// transfer is how many bytes a query answers with that measures the rate.
const transfer = 8 << 20

// ways compares the ways to one clone: a connection and its first answer, a query
// over an open connection, and the rate of a large answer.
func (t *take) ways(ctx context.Context, golden string) (err error) {
	c, _, _, err := t.clone(ctx, golden)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.remove(ctx, c.ID)) }()
	socket, tcp := endpoint(c), endpoint(c)
	host, err := netip.ParseAddr(c.Host)
	if err != nil {
		t.skip("ways to a clone: it has no address: %v", err)
		return nil
	}
	tcp.Address = netip.AddrPortFrom(host, uint16(c.Port))
	s, a := newWay("socket", golden), newWay("tcp", golden)
	err = interleaveFor(ctx, t, t.Span/2, warmUp, t.rounds(100), []*recorder.Recorder{s.connect, a.connect, s.query, a.query, s.rate, a.rate},
		func(ctx context.Context, _ int) error { return s.measure(ctx, socket) },
		func(ctx context.Context, _ int) error { return a.measure(ctx, tcp) })
	t.keep(s.connect, a.connect, s.query, a.query, s.rate, a.rate)
	return err
}

// way is one way to a clone.
type way struct{ connect, query, rate *recorder.Recorder }

func newWay(name, golden string) way {
	return way{recorder.New("connect_"+name, golden, "ms"), recorder.New("query_"+name, golden, "ms"), recorder.New("transfer_"+name, golden, "1/s MiB")}
}

func (w way) measure(ctx context.Context, at peer.Endpoint) error {
	begun := time.Now()
	conn, err := at.Connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // all answers are there
	if err := peer.WantOn(ctx, conn, "SELECT 1", "1"); err != nil {
		return err
	}
	w.connect.AddDuration(time.Since(begun))
	begun = time.Now()
	if err := peer.WantOn(ctx, conn, rowCount, fmt.Sprint(customers)); err != nil {
		return err
	}
	w.query.AddDuration(time.Since(begun))
	begun = time.Now()
	text, err := peer.ValueOn(ctx, conn, fmt.Sprintf("SELECT repeat('x', %d)", transfer))
	if err != nil {
		return err
	}
	if len(text) != transfer {
		return fmt.Errorf("%d bytes came of %d", len(text), transfer)
	}
	w.rate.Add(transfer / (1 << 20) / time.Since(begun).Seconds())
	return nil
}
