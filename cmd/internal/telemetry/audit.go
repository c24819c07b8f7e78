package telemetry

import (
	"fmt"
	"os"
	"sync"
)

// Audit is a file of lines that is begun anew when it has become large; the one before is kept
// beside it, as PATH.1. It is safe for concurrent use.
type Audit struct {
	path string
	max  int64

	mu   sync.Mutex
	file *os.File
	size int64
}

// OpenAudit opens the file at path, for root alone. The caller must Close it.
func OpenAudit(path string, max int64) (*Audit, error) {
	a := &Audit{path: path, max: max}
	if err := a.open(); err != nil {
		return nil, err
	}
	return a, nil
}

func (a *Audit) open() error {
	f, err := os.OpenFile(a.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open audit log: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return fmt.Errorf("open audit log: %w", err)
	}
	a.file, a.size = f, st.Size()
	return nil
}

// Write writes whole lines.
func (a *Audit) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.size > 0 && a.size+int64(len(p)) > a.max {
		if err := a.rotate(); err != nil {
			return 0, err
		}
	}
	n, err := a.file.Write(p)
	a.size += int64(n)
	return n, err
}

// rotate goes on with a new file. What cannot be renamed grows on.
func (a *Audit) rotate() error {
	if err := os.Rename(a.path, a.path+".1"); err != nil {
		return nil //nolint:nilerr // a log that is too long is better than none
	}
	old := a.file
	if err := a.open(); err != nil {
		return err
	}
	return old.Close()
}

// Close closes the file.
func (a *Audit) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.file.Close()
}
