package http1

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

// TestMain overlooks a server of the tests that keeps a connection for its client to read to
// the end (500 ms, longer than goleak waits).
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// answers are what a daemon may say, and what it may not.
var answers = []string{
	"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: b\r\nx-a: c\r\n\r\nhello",
	"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200 OK\r\n\r\nuntil the end",
	"HTTP/1.0 200 OK\n\nbare line ends",
	"HTTP/1.1 204 No Content\r\n\r\n",
	"HTTP/1.1 418 I'm a teapot\r\nContent-Length: 2\r\n\r\nno",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n2\r\nhi\r\n0\r\nX-T: late\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	// cut and broken
	"",
	"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n",
	"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
	"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
	"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nhello",
	"HTTP/1.1 200 OK\r\nno colon\r\n\r\nhello",
	"HTTP/1.1 2 OK\r\n\r\n",
	"HTTP/1.1\r\n\r\n",
	"SSH-2.0-OpenSSH_9.2\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nhello\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-T: la",
}

// outcome is what a reader of an answer got.
type outcome struct {
	Status  string
	Header  map[string][]string
	Body    string
	Trailer map[string][]string
	Whole   bool // to the end, without error
}

func ours(answer string) outcome {
	client, daemon := net.Pipe()
	go func() {
		defer daemon.Close()
		if _, err := http.ReadRequest(bufio.NewReader(daemon)); err == nil {
			_, _ = io.WriteString(daemon, answer)
		}
	}()
	resp, err := Do(context.Background(), client, &Request{Method: "GET", Path: "/"})
	if err != nil {
		return outcome{}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return outcome{resp.Status, resp.Header, string(b), resp.Trailer, err == nil}
}

// theirs is what net/http makes of an answer.
func theirs(answer string) outcome {
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader([]byte(answer))), nil)
	if err != nil {
		return outcome{}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return outcome{resp.Status, resp.Header, string(b), resp.Trailer, err == nil}
}

// TestAnswers compares with net/http.
func TestAnswers(t *testing.T) {
	for _, a := range answers {
		got, want := ours(a), theirs(a)
		for _, o := range []*outcome{&got, &want} {
			delete(o.Header, "Transfer-Encoding") // which net/http takes out
			delete(o.Header, "Trailer")
			if len(o.Trailer) == 0 || !o.Whole {
				o.Trailer = nil
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%q (-net/http +own):\n%s", a, d)
		}
	}
}

// FuzzAnswer holds that an answer that net/http reads whole is read alike, and that
// no other makes us hang or panic.
func FuzzAnswer(f *testing.F) {
	for _, a := range answers {
		f.Add(a)
	}
	f.Fuzz(func(t *testing.T, answer string) {
		got, want := ours(answer), theirs(answer)
		if want.Whole && got.Whole && got.Status[:1] != "1" && got.Body != want.Body {
			t.Errorf("%q: body %q, net/http reads %q", answer, got.Body, want.Body)
		}
	})
}
