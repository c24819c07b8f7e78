// Command ctrsnap-proxy carries connections from published ports of the host to
// clones. ctrsnapd starts it, with the socket by which it is told what to do as
// file descriptor 3, and may end before it.
package main

import (
	"log/slog"
	"net"
	"os"

	"github.com/ctrsnap/ctrsnap/network/publish"
)

func main() {
	if err := run(); err != nil {
		slog.Error("ctrsnap-proxy: it is started by ctrsnapd", "error", err)
		os.Exit(1)
	}
}

func run() error {
	f := os.NewFile(3, "control")
	l, err := net.FileListener(f)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	control, ok := l.(*net.UnixListener)
	if !ok {
		return net.UnknownNetworkError(l.Addr().Network())
	}
	return publish.Serve(control)
}
