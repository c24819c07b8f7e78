package main

import (
	"context"
	"net"

	"github.com/ctrsnap/ctrsnap/runtime/api/server"
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
