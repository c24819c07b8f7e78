package containerd

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/pkg/cio"
)

// logFile has the shim append both outputs to one file.
//
// containerd's own way, a file:// URI, loses the end of stderr: the runc shim
// opens the file once and closes it when stdout ends, which is before stderr is
// copied as often as not. Two names of one file are opened twice; O_APPEND
// (open(2)) keeps the writes apart.
type logFile struct{ config cio.Config }

func newLogFile(path string) cio.Creator {
	return func(string) (cio.IO, error) {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
		if err != nil {
			return nil, fmt.Errorf("make log file: %w", err)
		}
		if err := f.Close(); err != nil {
			return nil, fmt.Errorf("make log file: %w", err)
		}
		dir, name := filepath.Split(path)
		return &logFile{cio.Config{Stdout: path, Stderr: dir + "./" + name}}, nil
	}
}

func (l *logFile) Config() cio.Config { return l.config }
func (*logFile) Cancel()              {}
func (*logFile) Wait()                {}
func (*logFile) Close() error         { return nil }
