// Package http1 is the client's half of HTTP/1.1 (RFC 9112) for one request on one
// connection.
//
// It is here because jobs start the command line thousands of times a day: what
// net/http and the TLS below it set up before main takes a third of the time of a
// whole program that prints one line. It speaks with ctrsnapd only, and leaves out
// what that does not do: redirects, cookies, compression, connections that are kept.
package http1

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"strconv"
)

// Request is what is asked. Method, Path and the header's keys and values are
// written as they are: they must be free of spaces and line ends.
type Request struct {
	Method string
	Path   string // with the query, escaped
	Header map[string]string
	// Body is sent at once, with its length.
	Body []byte
	// Stream, in place of Body, is sent in chunks while the answer may already be
	// read. It is closed at its end, and once nobody wants it any more.
	Stream io.ReadCloser
	// Sent, if not nil, is called when all but Stream is out.
	Sent func()
	// Interim, if not nil, gets the header of each answer of class 1xx ahead of
	// the answer.
	Interim func(Header)
}

// write sends all but the stream, in one piece.
func (r *Request) write(w io.Writer) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: ctrsnap\r\n", r.Method, r.Path)
	for k, v := range r.Header {
		fmt.Fprintf(&b, "%s: %s\r\n", k, v)
	}
	if _, own := r.Header["Connection"]; !own {
		b.WriteString("Connection: close\r\n")
	}
	switch {
	case r.Stream != nil:
		b.WriteString("Transfer-Encoding: chunked\r\n")
	case r.Body != nil || r.Method != "GET":
		b.WriteString("Content-Length: " + strconv.Itoa(len(r.Body)) + "\r\n")
	}
	b.WriteString("\r\n")
	b.Write(r.Body)
	_, err := w.Write(b.Bytes())
	return err
}

// stream sends a body of unknown length (RFC 9112 section 7.1). If it cannot be
// read the connection is closed, so that the daemon does not take the part for the
// whole. That the daemon takes no more of it is no error: its answer says why.
func stream(conn net.Conn, body io.ReadCloser) {
	defer body.Close()
	w := bufio.NewWriter(conn)
	for buf := make([]byte, 32<<10); ; {
		n, err := body.Read(buf)
		if n > 0 {
			fmt.Fprintf(w, "%x\r\n%s\r\n", n, buf[:n])
		}
		if err == io.EOF {
			_, _ = w.WriteString("0\r\n\r\n")
		} else if err != nil {
			_ = conn.Close()
			return
		}
		if w.Flush() != nil || err != nil {
			return
		}
	}
}
