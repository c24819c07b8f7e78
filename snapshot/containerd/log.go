package containerd

import (
	"context"
	"io"
	"log/slog"
	"slices"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	lslog "github.com/sirupsen/logrus/hooks/slog"
)

// expected are warnings about what ctrsnap wants to be so.
var expected = []string{
	"using async mode for boltdb",       // package checkpoint does the syncing
	"failed check for fsverity support", // goldens have digests of their own
}

// logHook hands containerd's log entries to slog.
type logHook struct{ normal, expected *lslog.Hook }

// bridgeLogs sends containerd's log to l. containerd has one logger per process.
func bridgeLogs(l *slog.Logger) {
	level := log.WarnLevel
	if l.Enabled(context.Background(), slog.LevelDebug) {
		level = log.DebugLevel
	}
	l = l.With("component", "containerd")
	std := log.L.Logger
	std.SetOutput(io.Discard)
	std.SetLevel(level)
	std.ReplaceHooks(logrus.LevelHooks{})
	std.AddHook(logHook{
		normal: lslog.NewHook(l, &lslog.HookOptions{LevelMapper: slogLevel}),
		expected: lslog.NewHook(l, &lslog.HookOptions{
			LevelMapper: func(logrus.Level) slog.Level { return slog.LevelDebug },
		}),
	})
}

// Levels returns all of them.
func (logHook) Levels() []logrus.Level { return logrus.AllLevels }

// Fire logs one entry.
func (h logHook) Fire(e *logrus.Entry) error {
	if slices.Contains(expected, e.Message) {
		return h.expected.Fire(e)
	}
	return h.normal.Fire(e)
}

// slogLevel maps containerd's levels. Its "info" tells how plugins are loaded
// and is our debug.
func slogLevel(l logrus.Level) slog.Level {
	switch {
	case l <= logrus.ErrorLevel:
		return slog.LevelError
	case l == logrus.WarnLevel:
		return slog.LevelWarn
	default:
		return slog.LevelDebug
	}
}
