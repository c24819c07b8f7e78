package server

import (
	"net"
	"sync"
)

// maxRemote bounds the connections of callers of other hosts, with those who have not
// shown a certificate yet: descriptors are to be left for callers of this host.
const maxRemote = 1024

// bounded is a TCP listener that closes at once what is too many.
type bounded struct {
	net.Listener
	slots chan struct{} // holds one for each connection
}

func (b bounded) Accept() (net.Conn, error) {
	for {
		c, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case b.slots <- struct{}{}:
			return &boundedConn{c.(*net.TCPConn), sync.OnceFunc(func() { <-b.slots })}, nil
		default:
			_ = c.Close() // he is told by that
		}
	}
}

// boundedConn gives its place back when it is closed.
type boundedConn struct {
	*net.TCPConn
	release func()
}

func (c *boundedConn) Close() error {
	defer c.release()
	return c.TCPConn.Close()
}
