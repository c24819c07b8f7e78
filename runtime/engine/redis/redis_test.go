package redis

import (
	"io"
	"net"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime/engine/described"
)

func TestDescriptions(t *testing.T) {
	for name, e := range map[string]*described.Engine{"redis": New(), "valkey": NewValkey()} {
		if e.Name() != name {
			t.Errorf("%s is called %s", name, e.Name())
		}
	}
}

// answering is a connection whose server has said all already.
type answering struct {
	net.Conn
	io.Reader
}

func (a answering) Read(p []byte) (int, error)  { return a.Reader.Read(p) }
func (a answering) Write(p []byte) (int, error) { return len(p), nil }

// A server that loads its data, or hangs up, is asked again; one that refuses is not.
func TestAsk(t *testing.T) {
	for _, c := range []struct {
		answers string
		class   func(error) bool
	}{
		{"+OK\r\n:3\r\n", func(err error) bool { return err == nil }},
		{"-LOADING Redis is loading the dataset in memory\r\n", errdefs.IsUnavailable},
		{"+OK\r\n-LOADING x\r\n", errdefs.IsUnavailable},
		{"", errdefs.IsUnavailable},
		{"-WRONGPASS invalid username-password pair\r\n", errdefs.IsUnauthorized},
	} {
		conn := answering{Reader: strings.NewReader(c.answers)}
		if err := (protocol{}).Ask(t.Context(), conn, described.Login{User: "u", Password: "p"}); !c.class(err) {
			t.Errorf("%q: %v", c.answers, err)
		}
	}
}
