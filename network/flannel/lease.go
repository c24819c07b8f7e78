package flannel

import (
	"log/slog"
	"os"
	"sync"
)

// Lease follows the file of flanneld. It is safe for concurrent use; the zero
// value with a Path is ready.
type Lease struct {
	Path string
	Log  *slog.Logger // hears of changes; nil is nobody

	mu   sync.Mutex
	read os.FileInfo // of what env was read from
	env  Env
}

// Current returns what flanneld says now. It costs one stat(2) unless the file
// has changed; a change of the subnets is logged.
func (l *Lease) Current() (Env, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	info, err := os.Stat(l.Path)
	if err == nil && l.read != nil && os.SameFile(info, l.read) && info.ModTime().Equal(l.read.ModTime()) && info.Size() == l.read.Size() {
		return l.env, nil
	}
	env, err := ReadEnv(l.Path) // says why also if the stat did not work
	if err != nil {
		return Env{}, err // not kept: flanneld may be in the midst of writing
	}
	if before := l.env.String(); before != "" && before != env.String() && l.Log != nil {
		l.Log.Warn("flannel subnet has changed: new clones are in the new one", "before", before, "now", env.String(), "file", l.Path)
	}
	l.read, l.env = info, env
	return env, nil
}
