package main

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/api/server"
	"github.com/ctrsnap/ctrsnap/runtime/host"
)

// listen lets callers of this host in, and those of others by TLS if the configuration says where.
func (d *daemon) listen(ctx context.Context) ([]net.Listener, error) {
	a := d.cfg.API
	local, err := server.Listen(a.Socket, a.Group, d.payers.Of)
	if err != nil || a.TLSListen == "" {
		return []net.Listener{local}, err
	}
	remote, err := server.ListenTLS(ctx, server.TLS{Address: a.TLSListen, Cert: a.TLSCert, Key: a.TLSKey, ClientCA: a.TLSClientCA})
	if err != nil {
		_ = local.Close() // nobody was let in
		return nil, err
	}
	d.log.InfoContext(ctx, "remote callers", "address", remote.Addr().String())
	return []net.Listener{local, remote}, nil
}

// groupEvery is how often a group is looked for that does not exist.
const groupEvery = 10 * time.Second

// letIn gives the socket to its group once there is one: to join it takes no restart of the daemon.
func letIn(ctx context.Context, try func() (known bool, err error), group string, log *slog.Logger) {
	for told := false; ; told = true {
		known, err := try()
		if err != nil {
			log.ErrorContext(ctx, "let the group in", "group", group, "error", err)
			return
		}
		if known {
			if told {
				log.InfoContext(ctx, "the group exists now: its members may use the socket", "group", group)
			}
			return
		}
		if !told {
			log.WarnContext(ctx, "the group that may use the socket does not exist: root alone may", "group", group, "make it by", host.MakeGroup(group))
		}
		select {
		case <-time.After(groupEvery):
		case <-ctx.Done():
			return
		}
	}
}
