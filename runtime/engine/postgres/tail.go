package postgres

import (
	"regexp"
	"strings"
	"sync"
)

// tailSize is how much of the end of an output is kept.
const tailSize = 16 << 10

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

// Write never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p[max(0, len(p)-tailSize):]...)
	if extra := len(t.buf) - tailSize; extra > tailSize { // not each time
		t.buf = append(t.buf[:0], t.buf[extra:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.ToValidUTF8(string(t.buf[max(0, len(t.buf)-tailSize):]), "?")
}

var (
	// toolRE is how the other programs do: "pg_restore: error: message".
	toolRE = regexp.MustCompile(`(?m)^[a-z_]+: (?:error|fatal): (.*)((?:\n(?:[a-z_]+: )?(?:detail|hint|DETAIL|HINT): .*)*)`)
	// serverRE is a line of the server's log.
	serverRE = regexp.MustCompile(`(?m)(?:FATAL|PANIC|ERROR):  (.*)((?:\n.*(?:DETAIL|HINT):  .*)*)`)
)

// toolMessage is the first error that a program reported: later ones follow
// from it.
func toolMessage(output string) string { return message(toolRE, output, true) }

// serverMessage is the error that ended a server: the last one.
func serverMessage(output string) string { return message(serverRE, output, false) }

func message(re *regexp.Regexp, output string, first bool) string {
	if all := re.FindAllStringSubmatch(output, -1); len(all) > 0 {
		m := all[len(all)-1]
		if first {
			m = all[0]
		}
		return oneLine(m[1] + m[2])
	}
	lines := strings.Split(strings.TrimSpace(output), "\n")
	return oneLine(strings.Join(lines[max(0, len(lines)-3):], "\n"))
}

func oneLine(s string) string {
	return strings.Join(strings.Fields(strings.ReplaceAll(s, "\n", "; ")), " ")
}
