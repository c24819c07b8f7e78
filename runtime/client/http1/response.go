package http1

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/textproto"
	"strconv"
	"strings"
	"time"
)

// What is read of an answer besides its body, in bytes.
const maxHead = 1 << 20

// SwitchingProtocols is the status of an answer after which both sides speak
// something else.
const SwitchingProtocols = 101

// Header is what an answer has in its head or after its body. Get takes keys in any
// case.
type Header = textproto.MIMEHeader

// Response is an answer.
type Response struct {
	StatusCode int
	Status     string // "200 OK"
	Header     Header
	// Body is never nil; the caller closes it, and the connection with it. After
	// SwitchingProtocols it is the connection. It is not safe for concurrent use, but
	// for a Read beside a Write.
	Body io.ReadWriteCloser
	// Trailer is there once Body was read to its end.
	Trailer Header
}

// Do sends req over conn, which it owns from then on, and returns the final answer.
// When ctx ends, so does whatever waits for the connection, Body's methods included;
// the caller looks at ctx for the reason.
func Do(ctx context.Context, conn net.Conn, req *Request) (*Response, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	resp, err := exchange(&body{conn: conn, stop: stop}, req)
	if err != nil {
		stop()
		_ = conn.Close() // the first error tells more
		return nil, err
	}
	return resp, nil
}

func exchange(b *body, req *Request) (*Response, error) {
	if err := req.write(b.conn); err != nil {
		if req.Stream != nil {
			_ = req.Stream.Close()
		}
		return nil, err
	}
	if req.Stream != nil {
		go stream(b.conn, req.Stream)
	}
	if req.Sent != nil {
		req.Sent()
	}
	head := &io.LimitedReader{R: b.conn, N: maxHead}
	r := bufio.NewReader(head)
	for {
		resp, err := readHead(r)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode >= 200 || resp.StatusCode == SwitchingProtocols {
			head.N = math.MaxInt64
			resp.Body = b
			return resp, b.delimit(resp, r)
		}
		if req.Interim != nil {
			req.Interim(resp.Header)
		}
	}
}

// readHead reads a status line and a header (RFC 9112 sections 4 and 5).
func readHead(r *bufio.Reader) (*Response, error) {
	text := textproto.NewReader(r)
	line, err := text.ReadLine()
	if err != nil {
		return nil, err
	}
	version, status, _ := strings.Cut(line, " ")
	digits, _, _ := strings.Cut(status, " ")
	code, err := strconv.Atoi(digits)
	if !strings.HasPrefix(version, "HTTP/1.") || len(digits) != 3 || err != nil || code < 100 {
		return nil, fmt.Errorf("no answer in HTTP: %.80q", line)
	}
	header, err := text.ReadMIMEHeader()
	if err != nil {
		return nil, fmt.Errorf("read header of answer: %w", err)
	}
	return &Response{StatusCode: code, Status: status, Header: header}, nil
}

// body is that of an answer; its connection goes with it.
type body struct {
	rest io.Reader
	conn net.Conn
	stop func() bool
}

// delimit has the body end where the header says (RFC 9112 section 6.3).
func (b *body) delimit(resp *Response, buffered *bufio.Reader) error {
	b.rest = buffered
	coding, length := resp.Header.Get("Transfer-Encoding"), resp.Header.Get("Content-Length")
	switch {
	case resp.StatusCode == SwitchingProtocols:
	case resp.StatusCode == 204 || resp.StatusCode == 304:
		b.rest = strings.NewReader("")
	case strings.EqualFold(coding, "chunked"):
		b.rest = &chunked{r: buffered, trailer: &resp.Trailer}
	case coding != "":
		return fmt.Errorf("answer in unknown transfer encoding %.80q", coding)
	case length != "":
		n, err := strconv.ParseUint(length, 10, 63)
		if err != nil {
			return fmt.Errorf("answer of invalid length %.80q", length)
		}
		b.rest = &exactly{r: buffered, n: int64(n)}
	}
	return nil
}

func (b *body) Read(p []byte) (int, error)  { return b.rest.Read(p) }
func (b *body) Write(p []byte) (int, error) { return b.conn.Write(p) }

func (b *body) Close() error {
	b.stop()
	return b.conn.Close()
}

// exactly reads n bytes; to find fewer is an error.
type exactly struct {
	r io.Reader
	n int64
}

func (e *exactly) Read(p []byte) (int, error) {
	if e.n == 0 {
		return 0, io.EOF
	}
	n, err := e.r.Read(p[:min(int64(len(p)), e.n)])
	if e.n -= int64(n); errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// chunked reads a body in chunks, and its trailer (RFC 9112 section 7.1).
type chunked struct {
	r       *bufio.Reader
	trailer *Header
	left    exactly // of the chunk
	begun   bool
	err     error // that all further reads return
}

func (c *chunked) Read(p []byte) (int, error) {
	if c.err == nil && c.left.n == 0 {
		c.err = c.next()
	}
	if c.err != nil {
		return 0, c.err
	}
	return c.left.Read(p)
}

// next reads the head of a chunk, and the trailer after the last; the error then is
// io.EOF.
func (c *chunked) next() error {
	text := textproto.NewReader(c.r)
	if c.begun {
		if line, err := text.ReadLine(); err != nil || line != "" {
			return errors.Join(errChunk, unexpected(err))
		}
	}
	c.begun = true
	line, err := text.ReadLine()
	if err != nil {
		return unexpected(err)
	}
	size, _, _ := strings.Cut(line, ";")
	n, err := strconv.ParseUint(strings.TrimSpace(size), 16, 63)
	if err != nil {
		return errChunk
	}
	if c.left = (exactly{c.r, int64(n)}); n > 0 {
		return nil
	}
	if *c.trailer, err = text.ReadMIMEHeader(); err != nil {
		return unexpected(err)
	}
	return io.EOF
}

var errChunk = errors.New("malformed chunk")

// unexpected is err where the end would come too soon.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
