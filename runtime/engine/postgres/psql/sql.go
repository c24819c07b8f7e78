package psql

import "bytes"

// mode is what the next byte belongs to: the states of psqlscan.l and psqlscanslash.l.
type mode uint8

const (
	plain   mode = iota // SQL outside of all others
	word                // an identifier, a keyword, a number
	tag                 // perhaps the beginning of a dollar quote
	str                 // a string without escapes
	bits                // a string of bits: two quotes are not one in it
	escapes             // a string with backslash escapes
	ident               // a quoted identifier
	dollar              // a dollar quote
	remark              // a comment to the end of the line
	comment             // a comment between /* and */
	name                // the name of a command
	args                // its arguments
	quoted              // an argument in quotes
	rest                // an argument that is the rest of the line
	data                // rows of COPY
)

// run scans what is read. It says whether the piece ends at pos.
func (s *Scanner) run() bool {
	for s.pos < s.end {
		limit, eol := s.end, false
		if s.next.any && s.mode != data {
			if i := bytes.IndexByte(s.buf[s.pos:s.end], '\n'); i >= 0 {
				limit, eol = s.pos+i+1, true
			}
		}
		before, mode := s.pos, s.mode
		if s.scan(limit) {
			return true
		}
		if eol && s.pos == limit {
			if s.endLine() {
				return true
			}
			continue
		}
		if s.bad != nil || (s.pos == before && s.mode == mode) {
			return false
		}
	}
	return false
}

func (s *Scanner) scan(limit int) bool {
	switch s.mode {
	case word:
		s.scanWord(limit)
	case tag:
		s.scanTag(limit)
	case str, bits:
		s.scanQuoted(limit, '\'')
	case ident:
		s.scanQuoted(limit, '"')
	case escapes:
		s.scanEscapes(limit)
	case dollar:
		s.scanDollar(limit)
	case remark:
		s.scanRemark(limit)
	case comment:
		s.scanComment(limit)
	case name, args, quoted, rest:
		return s.scanCommand(limit)
	case data:
		return s.scanData()
	default:
		return s.scanPlain(limit)
	}
	return false
}

func space(c byte) bool {
	return c == ' ' || c == '\n' || c == '\t' || c == '\r' || c == '\f' || c == '\v'
}
func digit(c byte) bool { return c >= '0' && c <= '9' }
func letter(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c >= 0x80
}

func (s *Scanner) enter(m mode, skip int) {
	s.mode = m
	s.pos += skip
}

// scanPlain goes through SQL outside of words, quotes and comments.
func (s *Scanner) scanPlain(limit int) bool {
	for s.pos < limit && s.mode == plain {
		c := s.lex[s.pos]
		if space(c) {
			s.pos++
			continue
		}
		next, known := s.peek(s.pos + 1)
		if !known {
			return false
		}
		switch {
		case c == '-' && next == '-':
			s.enter(remark, 2)
		case c == '/' && next == '*':
			s.nesting = 1
			s.enter(comment, 2)
		case c == '\\' && next != ';' && next != ':':
			return s.beginCommand()
		case s.pos > s.start && !s.open:
			return true // the blank ends here
		default:
			if !s.open {
				s.begin()
			}
			if s.sql(c, next) {
				return true
			}
		}
	}
	return false
}

// begin begins a statement at pos.
func (s *Scanner) begin() {
	s.kind, s.open, s.first = Statement, true, true
	s.statement = statement{tokens: s.tokens[:0], verb: s.verb[:0]}
}

// sql takes the byte c at pos, or what it begins. It says whether a statement ends with it.
func (s *Scanner) sql(c, next byte) bool {
	s.token = s.pos - s.start
	switch {
	case letter(c):
		s.opaque, s.word = false, s.word[:0]
		s.mode = word
	case digit(c), c == '$' && digit(next):
		s.opaque = true
		s.enter(word, 1)
	case c == '\'':
		s.enter(s.stringMode(), 1)
	case c == '"':
		s.enter(ident, 1)
	case c == '$' && next == '$':
		s.delim = append(s.delim[:0], "$$"...)
		s.enter(dollar, 2)
	case c == '$' && letter(next):
		s.delim = append(s.delim[:0], '$')
		s.enter(tag, 1)
	case c == ':' && (letter(next) || digit(next)):
		s.opaque = true
		s.enter(word, 1)
	case c == ':' && (next == ':' || next == '='):
		s.punct(2)
	case c == '\\' && next == ';':
		s.words = 0
		s.punct(2)
		s.begun = s.seen
	case c == '\\':
		s.punct(2)
	case c == ';' && s.parens == 0 && s.begins == 0:
		s.pos++
		s.finish()
		return true
	default:
		s.nest(c)
		s.punct(1)
	}
	return false
}

func (s *Scanner) nest(c byte) {
	if c == '(' {
		s.parens++
	}
	if c == ')' && s.parens > 0 {
		s.parens--
	}
}

func (s *Scanner) punct(n int) {
	s.pos += n
	s.add(Other)
}

// add notes the token from s.token to pos.
func (s *Scanner) add(kind TokenKind) {
	if s.seen++; len(s.tokens) < maxTokens {
		s.tokens = append(s.tokens, Token{Kind: kind, Start: s.token, End: s.pos - s.start})
	}
}

func (s *Scanner) stringMode() mode {
	if s.std {
		return str
	}
	return escapes
}

// scanWord reads to the end of a word. Only identifiers go on behind a dollar sign.
func (s *Scanner) scanWord(limit int) {
	i := s.pos
	for i < limit && (letter(s.lex[i]) || digit(s.lex[i]) || (s.lex[i] == '$' && !s.opaque)) {
		i++
	}
	if !s.opaque {
		s.word = append(s.word, s.lex[s.pos:min(i, s.pos+maxWord-len(s.word))]...)
	}
	s.pos = i
	if i < s.end || s.err != nil {
		s.endWord()
	}
}

func (s *Scanner) endWord() {
	if s.opaque {
		s.mode = plain
		s.add(Other)
		return
	}
	next, known := s.peek(s.pos)
	second, known2 := s.peek(s.pos + 1)
	if !known || !known2 {
		return // more has to be read
	}
	s.mode = plain
	if len(s.word) == 1 {
		switch c := s.word[0] | 0x20; {
		case c == 'e' && next == '\'':
			s.enter(escapes, 1)
			return
		case (c == 'b' || c == 'x') && next == '\'':
			s.enter(bits, 1)
			return
		case c == 'n' && next == '\'':
			s.enter(s.stringMode(), 1)
			return
		case c == 'u' && next == '&' && second == '\'':
			s.enter(str, 2)
			return
		case c == 'u' && next == '&' && second == '"':
			s.enter(ident, 2)
			return
		}
	}
	s.add(Word)
	s.keyword()
}

// keyword does what psqlscan.l does with an identifier: a semicolon does not end a statement
// between BEGIN and END of CREATE [OR REPLACE] {FUNCTION|PROCEDURE}. It also looks for COPY … FROM STDIN.
func (s *Scanner) keyword() {
	if s.parens > 0 && s.words >= len(s.initials) {
		return
	}
	w := toLower(s.word)
	if s.words == 0 {
		s.initials = [4]byte{}
		s.copying = string(w) == "copy" && s.seen == s.begun+1
	}
	if s.seen == 1 {
		s.verb = append(s.verb, w...)
	}
	if s.words < len(s.initials) {
		switch string(w) {
		case "create", "function", "procedure", "or", "replace":
			s.initials[s.words] = w[0]
		}
	}
	s.words++
	if s.parens == 0 && s.definesFunction() {
		switch {
		case string(w) == "begin", string(w) == "case" && s.begins > 0:
			s.begins++
		case string(w) == "end" && s.begins > 0:
			s.begins--
		}
	}
	if s.parens == 0 && s.copying {
		switch {
		case string(w) == "from":
			s.from = s.seen
		case string(w) == "stdin" && s.from > 0 && s.seen == s.from+1:
			s.copies++
			s.copying = false
		}
	}
}

// toLower changes ASCII in place, as a server does with a name without quotes.
func toLower(w []byte) []byte {
	for i, c := range w {
		if c >= 'A' && c <= 'Z' {
			w[i] = c + 'a' - 'A'
		}
	}
	return w
}

func (s *Scanner) definesFunction() bool {
	i := s.initials
	return i[0] == 'c' && (i[1] == 'f' || i[1] == 'p' || i[1] == 'o' && i[2] == 'r' && (i[3] == 'f' || i[3] == 'p'))
}

// scanTag reads what follows a dollar sign and may be the tag of a quote.
func (s *Scanner) scanTag(limit int) {
	i := s.pos
	for i < limit && (letter(s.lex[i]) || digit(s.lex[i])) {
		i++
	}
	s.delim = append(s.delim, s.lex[s.pos:i]...)
	s.pos = i
	next, known := s.peek(i)
	switch {
	case len(s.delim) > maxTag:
		s.bad = ErrTag
	case !known:
	case next == '$':
		s.delim = append(s.delim, '$')
		s.enter(dollar, 1)
	default: // not a quote: a dollar sign and a word
		end := s.pos
		s.pos = s.start + s.token + 1
		s.add(Other)
		s.token, s.pos = s.token+1, end
		s.opaque, s.word, s.mode = false, append(s.word[:0], s.delim[1:min(len(s.delim), maxWord)]...), word
	}
}

// scanQuoted reads what is in quotes, where two of them are one in the text.
func (s *Scanner) scanQuoted(limit int, quote byte) {
	i := bytes.IndexByte(s.lex[s.pos:limit], quote)
	if i < 0 {
		s.pos = limit
		return
	}
	s.pos += i
	s.endQuote(quote)
}

// endQuote looks at the quote at pos.
func (s *Scanner) endQuote(quote byte) {
	next, known := s.peek(s.pos + 1)
	if known && next == quote && s.mode != bits {
		s.pos += 2
		return
	}
	if !known {
		return
	}
	kind := String
	if s.mode == ident {
		kind = Quoted
	}
	s.enter(plain, 1)
	s.add(kind)
}

func (s *Scanner) scanEscapes(limit int) {
	i := bytes.IndexAny(s.lex[s.pos:limit], `'\`)
	if i < 0 {
		s.pos = limit
		return
	}
	s.pos += i
	if s.lex[s.pos] == '\'' {
		s.endQuote('\'')
		return
	}
	switch next, known := s.peek(s.pos + 1); {
	case known && next != '\n' && s.pos+1 < s.end:
		s.pos += 2
	case known:
		s.pos++
	}
}

func (s *Scanner) scanDollar(limit int) {
	if i := bytes.Index(s.lex[s.pos:limit], s.delim); i >= 0 {
		s.enter(plain, i+len(s.delim))
		s.add(String)
		return
	}
	keep := len(s.delim) - 1 // the delimiter may have begun
	if limit < s.end || s.err != nil {
		keep = 0
	}
	s.pos = max(s.pos, limit-keep)
}

// scanRemark reads to the end of a line: for psql, that is also a carriage return.
func (s *Scanner) scanRemark(limit int) {
	if i := bytes.IndexAny(s.lex[s.pos:limit], "\r\n"); i >= 0 {
		s.enter(plain, i)
		return
	}
	s.pos = limit
}

func (s *Scanner) scanComment(limit int) {
	i := bytes.IndexAny(s.lex[s.pos:limit], "*/")
	if i < 0 {
		s.pos = limit
		return
	}
	s.pos += i
	next, known := s.peek(s.pos + 1)
	switch c := s.lex[s.pos]; {
	case !known:
		return
	case c == '/' && next == '*':
		s.nesting++
		s.pos++
	case c == '*' && next == '/':
		s.nesting--
		s.pos++
	}
	if s.pos++; s.nesting == 0 {
		s.mode = plain
	}
}
