package api

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Stream says what a frame of an exec carries.
//
// After the answer 101 both sides speak frames: one byte stream, four bytes
// length (big endian), then that many bytes of payload. The client begins with
// StreamRequest and may then send StreamStdin, StreamResize and, once,
// StreamStdinClose. The daemon sends StreamStdout and StreamStderr and, as its last
// frame, StreamExit or StreamError. Who does not read stops the other from
// writing: there is no other flow control.
type Stream byte

// The streams of an exec.
const (
	StreamRequest    Stream = 0 // client: ExecRequest as JSON, at most MaxExecRequest bytes
	StreamStdin      Stream = 1 // client: bytes
	StreamStdinClose Stream = 2 // client: empty; stdin is at its end
	StreamResize     Stream = 3 // client: rows, columns; two bytes each, big endian
	StreamStdout     Stream = 4 // daemon: bytes
	StreamStderr     Stream = 5 // daemon: bytes
	StreamExit       Stream = 6 // daemon: exit code; four bytes, big endian
	StreamError      Stream = 7 // daemon: Error as JSON
)

// Limits of a frame's payload in bytes.
const (
	MaxFrame       = 64 << 10
	MaxExecRequest = 1 << 20 // of StreamRequest
)

const frameHeader = 5

// WindowSize is the size of a terminal in characters.
type WindowSize struct {
	Rows, Cols uint16
}

// ReadFrame reads one frame. The payload is read into buf if it fits and is valid
// until buf is used again. The error is io.EOF only where a frame could have
// begun.
func ReadFrame(r io.Reader, buf []byte) (Stream, []byte, error) {
	var head [frameHeader]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	s, n := Stream(head[0]), binary.BigEndian.Uint32(head[1:])
	if s > StreamError {
		return 0, nil, fmt.Errorf("read frame: unknown stream %d", s)
	}
	if n > s.limit() {
		return 0, nil, fmt.Errorf("read frame: %d bytes, at most %d allowed", n, s.limit())
	}
	if int(n) > cap(buf) {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	if _, err := io.ReadFull(r, buf); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, fmt.Errorf("read frame: %w", err)
	}
	return s, buf, nil
}

// WriteFrame writes one frame with a single Write. It does not split: p must be
// within the limit of its stream.
func WriteFrame(w io.Writer, s Stream, p []byte) error {
	if uint64(len(p)) > uint64(s.limit()) {
		return fmt.Errorf("write frame: %d bytes, at most %d allowed", len(p), s.limit())
	}
	b := make([]byte, frameHeader, frameHeader+len(p))
	b[0] = byte(s)
	binary.BigEndian.PutUint32(b[1:], uint32(len(p)))
	_, err := w.Write(append(b, p...))
	return err
}

func (s Stream) limit() uint32 {
	if s == StreamRequest {
		return MaxExecRequest
	}
	return MaxFrame
}

// AppendSize returns the payload of StreamResize.
func AppendSize(b []byte, size WindowSize) []byte {
	b = binary.BigEndian.AppendUint16(b, size.Rows)
	return binary.BigEndian.AppendUint16(b, size.Cols)
}

// ParseSize reads the payload of StreamResize.
func ParseSize(b []byte) (WindowSize, error) {
	if len(b) != 4 {
		return WindowSize{}, fmt.Errorf("parse window size: %d bytes, want 4", len(b))
	}
	return WindowSize{Rows: binary.BigEndian.Uint16(b), Cols: binary.BigEndian.Uint16(b[2:])}, nil
}

// AppendExit returns the payload of StreamExit.
func AppendExit(b []byte, code int) []byte {
	return binary.BigEndian.AppendUint32(b, uint32(int32(code)))
}

// ParseExit reads the payload of StreamExit.
func ParseExit(b []byte) (int, error) {
	if len(b) != 4 {
		return 0, fmt.Errorf("parse exit code: %d bytes, want 4", len(b))
	}
	return int(int32(binary.BigEndian.Uint32(b))), nil
}
