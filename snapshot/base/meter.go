package base

import (
	"io"
	"sync"

	"github.com/containerd/containerd/v2/core/transfer"
)

// meter adds up the progress of the parts of an image.
type meter struct {
	report func(done, total int64) // nil for nobody

	mu    sync.Mutex
	parts map[string]part
	done  int64
	total int64
}

type part struct{ done, total int64 }

// update takes the events of containerd's transfer service; those of a remote
// one may come late.
func (m *meter) update(p transfer.Progress) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.report == nil || p.Name == "" || p.Total == 0 {
		return
	}
	before := m.parts[p.Name]
	now := part{max(before.done, p.Progress), max(before.total, p.Total)}
	if p.Event == "extracting" || p.Event == "extracted" {
		now.done = now.total // what counts is the transfer
	}
	if now == before {
		return
	}
	m.parts[p.Name] = now
	m.done += now.done - before.done
	m.total += now.total - before.total
	m.report(m.done, m.total)
}

// finish reports that all is done and ends the reports: the last events of a
// remote service may come after its call has returned.
func (m *meter) finish() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.report != nil && m.done != m.total {
		m.done = m.total
		m.report(m.done, m.total)
	}
	m.report = nil
}

// close ends the reports.
func (m *meter) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.report = nil
}

// countingReader reports how much was read, and remembers why reading ended.
type countingReader struct {
	r      io.Reader
	report func(done, total int64) // nil for nobody
	done   int64
	total  int64 // 0 if unknown
	told   int64
	err    error
}

// step is how many bytes pass between two reports.
const step = 1 << 20

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.done += int64(n)
	if c.report != nil && (c.done-c.told >= step || err == io.EOF) {
		c.told = c.done
		c.report(c.done, c.total)
	}
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}
