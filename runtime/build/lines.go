package build

import (
	"bytes"
	"strings"
	"sync"
)

const (
	maxLine   = 4 << 10 // bytes of a line that are kept together
	tailLines = 20      // of an ExitError
	tailLine  = 512     // bytes of each
)

// lineWriter hands on whole lines, so that what several processes write is
// not mixed within a line. What holds
// zero bytes is no text and dropped.
type lineWriter struct {
	emit func(lines string) // each line ends with "\n"

	mu  sync.Mutex
	buf []byte
}

// Write never fails.
func (w *lineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if bytes.IndexByte(p, 0) >= 0 {
		w.buf = nil
		return len(p), nil
	}
	w.buf = append(w.buf, p...)
	if end := bytes.LastIndexByte(w.buf, '\n') + 1; end > 0 {
		w.emit(string(w.buf[:end]))
		w.buf = append([]byte(nil), w.buf[end:]...)
	}
	if len(w.buf) > maxLine {
		w.flush()
	}
	return len(p), nil
}

// Close hands on a last line that has no end.
func (w *lineWriter) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flush()
}

func (w *lineWriter) flush() {
	if len(w.buf) > 0 {
		w.emit(string(w.buf) + "\n")
	}
	w.buf = nil
}

// tail keeps the last lines. Its zero value is ready for use.
type tail struct {
	mu    sync.Mutex
	lines []string
}

func (t *tail) add(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	text = strings.TrimRight(text, "\n")
	if text == "" {
		return
	}
	for line := range strings.SplitSeq(text, "\n") {
		t.lines = append(t.lines, strings.ToValidUTF8(line[:min(len(line), tailLine)], "?"))
		if len(t.lines) > 2*tailLines {
			t.lines = append([]string(nil), t.lines[tailLines:]...)
		}
	}
}

// String returns the last lines.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.lines[max(0, len(t.lines)-tailLines):], "\n")
}
