package postgres

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// failure is something of a dump that could not be loaded.
type failure struct {
	line    int    // of the dump, 0 if it has none
	object  string // "TABLE public.orders", "" if unknown
	message string
}

const (
	maxFailures = 1000
	maxLine     = 4096
)

// failures takes what psql or pg_restore write to their standard error.
type failures struct {
	out  tail
	mu   sync.Mutex
	line []byte // that has not ended, the first bytes
	list []failure
	more int // of those that are not in list
	// entry is what pg_restore is at; open says that the last failure's details may follow.
	entry string
	open  bool
}

var (
	// psqlLineRE is how psql reports what went wrong: "psql:FILE:LINE: ERROR:  message", or "error: message" for its own.
	psqlLineRE = regexp.MustCompile(`^psql:.*?:(\d+): (?:(?:ERROR|FATAL|PANIC):  |error: )(.*)`)
	// restoreLineRE is how pg_restore does.
	restoreLineRE = regexp.MustCompile(`^pg_restore: (?:\[[^]]*\] )?(?:error|fatal): (.*)`)
	// entryRE is the entry of the table of contents that the error is of: number, catalog, oid, kind, schema or not, name, owner.
	entryRE = regexp.MustCompile(`^pg_restore: (?:\[[^]]*\] )?from TOC entry \d+; \d+ \d+ (.*)`)
	// nameRE2 is the comment that pg_dump writes ahead of each object.
	nameRE2 = regexp.MustCompile(`^-- (?:Data for )?Name: (.*); Type: (.*); Schema: (.*); Owner: `)
)

// Write never fails.
func (f *failures) Write(p []byte) (int, error) {
	_, _ = f.out.Write(p) // never fails
	f.mu.Lock()
	defer f.mu.Unlock()
	for rest := p; len(rest) > 0; {
		line, after, ends := bytes.Cut(rest, []byte{'\n'})
		f.line = append(f.line, line[:min(len(line), max(0, maxLine-len(f.line)))]...)
		if ends {
			f.take(strings.ToValidUTF8(string(f.line), "?"))
			f.line = f.line[:0]
		}
		rest = after
	}
	return len(p), nil
}

// take takes a line.
func (f *failures) take(line string) {
	if m := entryRE.FindStringSubmatch(line); m != nil {
		f.entry, f.open = m[1], false
		return
	}
	if m := psqlLineRE.FindStringSubmatch(line); m != nil {
		n, _ := strconv.Atoi(m[1]) // 0 where it is longer than a number
		f.add(failure{line: n, message: m[2]})
		return
	}
	if m := restoreLineRE.FindStringSubmatch(line); m != nil {
		msg := strings.TrimPrefix(m[1], "could not execute query: ")
		f.add(failure{object: f.entry, message: strings.TrimPrefix(msg, "ERROR:  ")})
		f.entry = ""
		return
	}
	detail := strings.HasPrefix(line, "DETAIL:  ") || strings.HasPrefix(line, "HINT:  ") ||
		strings.Contains(line, ": detail: ") || strings.Contains(line, ": hint: ")
	if f.open = f.open && detail; f.open {
		last := &f.list[len(f.list)-1]
		last.message += "; " + line
	}
}

func (f *failures) add(one failure) {
	if f.open = len(f.list) < maxFailures; f.open {
		f.list = append(f.list, one)
	} else {
		f.more++
	}
}

// all returns what has failed.
func (f *failures) all() (list []failure, more int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.list {
		f.list[i].message = oneLine(f.list[i].message)
	}
	return f.list, f.more
}

// text is a failure for people; file is the dump.
func (f failure) text(file string) string {
	if f.line > 0 {
		file += ":" + strconv.Itoa(f.line)
	}
	if f.object != "" {
		return file + ": " + f.object + ": " + f.message
	}
	return file + ": " + f.message
}

// sourceError is a failure that ends a build.
func (b *build) sourceError(file string, f failure) error {
	msg := f.message
	if f.object != "" {
		msg = f.object + ": " + msg
	}
	return b.hinted(&runtime.SourceError{File: file, Line: f.line, Message: msg})
}

// toldFailures is how many failures of a dump the caller is told one by one.
const toldFailures = 50

// tellFailures says what of a dump is not in the golden, where the caller wanted it without.
func (b *build) tellFailures(file string, list []failure, more int) {
	for i, f := range list {
		if i == toldFailures {
			more += len(list) - i
			break
		}
		b.wb.Warn("failed: " + f.text(file))
	}
	if more > 0 {
		b.wb.Warn(fmt.Sprintf("%d more of %s failed: the build log has them", more, file))
	}
}

// hinted adds to an error of a dump what can be done about it.
func (b *build) hinted(err *runtime.SourceError) error {
	if hint := b.hint(err.Message); hint != "" {
		return snapshot.WithHint(err, hint)
	}
	return err
}
