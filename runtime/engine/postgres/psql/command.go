package psql

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
)

// Commands of psql by what they do to the text that follows, see exec_command in
// src/bin/psql/command.c.
var (
	// sends are those that send the statement under way, as a semicolon does.
	sends = []string{"g", "gx", "gset", "gexec", "gdesc", "crosstabview", "watch", "parse", "close", "close_prepared", "sendpipeline"}
	// wholes take the rest of the line as it is.
	wholes = []string{"!", "copy", "h", "help", "sf", "sf+", "sv", "sv+", "ef", "ev"}
	// pipes do if it begins with a vertical bar.
	pipes = []string{"g", "gx", "o", "out", "w", "write"}
	// nameRE is a name that a command may have. With others, psql throws the rest of the line away.
	nameRE = regexp.MustCompile(`^[A-Za-z0-9_+!?]+$`)
)

// Command is the name of a command, without its backslash, and "" for what is none.
func (p Piece) Command() string {
	if p.Kind != Command {
		return ""
	}
	text := p.Text[1:]
	if i := bytes.IndexFunc(text, func(r rune) bool { return r == '\\' || space(byte(r)) }); i >= 0 {
		text = text[:i]
	}
	return string(text)
}

// beginCommand is at a backslash. It says whether a piece ends before it.
func (s *Scanner) beginCommand() bool {
	if s.pos > s.start {
		return true
	}
	s.kind, s.word = Command, s.word[:0]
	s.enter(name, 1)
	return false
}

// scanCommand reads to the end of a command: that of the line, two backslashes, or the next one's.
func (s *Scanner) scanCommand(limit int) bool {
	for s.pos < limit {
		c := s.lex[s.pos]
		switch {
		case c == '\n':
			s.endCommand()
			return true
		case s.mode == name && !space(c) && c != '\\':
			s.word = append(s.word, c)[:min(len(s.word)+1, maxWord)]
		case s.mode == name:
			s.mode = args
			if slices.Contains(wholes, string(s.word)) || !nameRE.Match(s.word) {
				s.mode = rest
			}
			continue
		case s.mode == quoted && c == '\\' && s.quote == '\'':
			if next, known := s.peek(s.pos + 1); !known {
				return false
			} else if next != '\n' && s.pos+1 < s.end {
				s.pos++
			}
		case s.mode == quoted && c == s.quote:
			s.mode = args
		case s.mode != args:
		case c == '\\':
			next, known := s.peek(s.pos + 1)
			if !known {
				return false
			}
			if next == '\\' {
				s.pos += 2
			}
			s.endCommand()
			return true
		case c == '\'', c == '"', c == '`':
			s.mode, s.quote = quoted, c
		case c == '|' && space(s.lex[s.pos-1]) && slices.Contains(pipes, string(s.word)):
			s.mode = rest
		}
		s.pos++
	}
	return false
}

// endCommand does what a command does to the text that follows.
func (s *Scanner) endCommand() {
	s.mode = plain
	switch command := string(s.word); {
	case s.open && slices.Contains(sends, command):
		s.finish()
	case command == "r", command == "reset":
		s.open = false
	case command == "c", command == "connect":
		s.session = s.initial
		s.settle(s.initial)
	case command == "copy" && copiesRows(string(s.buf[s.start:s.pos])):
		s.nextLine().copies++
	case command == "encoding":
		if f := strings.Fields(string(s.buf[s.start:s.pos])); len(f) > 1 {
			s.assign("client_encoding", f[1], false)
		}
	}
}

var (
	asideRE = regexp.MustCompile(`'(?:[^'\\]|\\.)*'|"[^"]*"|\([^()]*\)`)
	stdinRE = regexp.MustCompile(`(?i)\sfrom\s+p?stdin(?:\s|;|$)`)
)

// copiesRows says whether \copy reads rows that follow it.
func copiesRows(text string) bool {
	for {
		less := asideRE.ReplaceAllString(text, " x ")
		if less == text {
			return stdinRE.MatchString(text)
		}
		text = less
	}
}

// nextLine returns what takes effect at the end of the line, to be changed.
func (s *Scanner) nextLine() *line {
	if !s.next.any {
		s.next.any, s.next.settings = true, s.settings
	}
	return &s.next
}

// settle has the connection set from the next line on.
func (s *Scanner) settle(to settings) { s.nextLine().settings = to }

// finish ends a statement: rows may follow it, or the connection is set otherwise.
func (s *Scanner) finish() {
	s.open = false
	if s.copies > 0 {
		s.nextLine().copies += s.copies
	}
	if s.first && len(s.tokens) > 0 && len(s.tokens) == s.seen {
		s.set()
	}
}

// text is a token's, in lower case if it is a word, without quotes if it is a simple string.
func (s *Scanner) text(i int) string {
	if i >= len(s.tokens) {
		return ""
	}
	t := s.tokens[i]
	text := string(s.buf[s.start+t.Start : s.start+t.End])
	switch t.Kind {
	case Word:
		return strings.ToLower(text)
	case String, Quoted:
		return strings.Trim(text, `'"`)
	}
	return text
}

// set follows statements that set what the meaning of the text depends on.
func (s *Scanner) set() {
	switch string(s.verb) {
	case "set":
		i, local := 1, s.text(1) == "local"
		if local || s.text(1) == "session" {
			i++
		}
		value := s.text(i + 2) // behind = or TO
		if s.text(i) == "names" {
			value = s.text(i + 1)
		}
		s.assign(s.text(i), value, local)
	case "reset":
		s.assign(s.text(1), "default", false)
	case "discard":
		if s.text(1) == "all" {
			s.assign("all", "default", false)
		}
	case "commit", "end", "rollback", "abort":
		s.settle(s.session)
	case "select": // [pg_catalog.]set_config('NAME', 'VALUE', LOCAL)
		i := 1
		if s.text(1) == "pg_catalog" {
			i = 3
		}
		if s.text(i) == "set_config" && s.text(i+1) == "(" && s.text(i+3) == "," {
			s.assign(s.text(i+2), s.text(i+4), s.text(i+6) == "true")
		}
	}
}

// assign sets a variable of the connection.
func (s *Scanner) assign(name, value string, local bool) {
	to, value := s.settings, strings.ToLower(value)
	if s.next.any {
		to = s.next.settings
	}
	if name == "all" || name == "standard_conforming_strings" {
		to.std = truth(value, s.initial.std)
	}
	if name == "all" || name == "names" || name == "client_encoding" {
		to.unsafe = encoding(value)
	}
	switch name {
	case "all", "standard_conforming_strings", "names", "client_encoding":
		if s.settle(to); !local {
			s.session = to
		}
	}
}

// truth is what parse_bool of the server makes of a value.
func truth(value string, byDefault bool) bool {
	if value == "" || value == "default" {
		return byDefault
	}
	for _, yes := range []string{"on", "true", "yes", "1"} {
		if strings.HasPrefix(yes, value) && value != "o" {
			return true
		}
	}
	return false
}

// encoding says which of the unsafe encodings a name means.
func encoding(name string) unsafe {
	switch strings.NewReplacer("-", "", "_", "", "'", "").Replace(strings.ToLower(name)) {
	case "sjis", "shiftjis", "mskanji", "win932", "windows932", "shiftjis2004":
		return sjis
	case "big5", "win950", "windows950", "gbk", "win936", "windows936", "uhc", "win949", "windows949", "gb18030", "johab":
		return others
	}
	return safe
}
