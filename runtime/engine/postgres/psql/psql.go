// Package psql divides SQL text as psql(1) does: into statements, psql's own commands, rows of
// COPY FROM stdin, and what is between them. It follows psqlscan.l, psqlscanslash.l and mainloop.c of
// PostgreSQL: what counts is where psql sees a statement end, not what the grammar of SQL says.
package psql

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// Kind is what a Piece of the text is.
type Kind uint8

// Kinds of pieces.
const (
	Blank     Kind = iota // white space and comments between statements
	Statement             // SQL, from its first token to its semicolon
	Command               // a command of psql's own, from its backslash on
	Data                  // rows of COPY FROM stdin, with the line that ends them
)

// Piece is a part of the text. The pieces, in order, are the whole text.
type Piece struct {
	Kind Kind
	Text []byte // valid until the next call of Next
	Line int    // of the text's first byte, from 1
	// First and Last say that a statement begins and ends with this piece. Both are set for one that
	// is no longer than MaxWhole and that no command interrupts: it is whole.
	First, Last bool
	// Tokens are those of a whole statement, without the semicolon, and Verb is its first word in lower case.
	// They are nil for a statement with more than maxTokens, and valid until the next call of Next.
	Tokens []Token
	Verb   []byte
}

// Whole says that the piece is a statement from end to end.
func (p Piece) Whole() bool { return p.Kind == Statement && p.First && p.Last }

// TokenKind is what a Token is.
type TokenKind uint8

// Kinds of tokens.
const (
	Word   TokenKind = iota // a keyword, or an identifier without quotes
	Quoted                  // an identifier in double quotes
	String                  // a string of any kind, with its quotes
	Other                   // one character of something else: an operator, a number, a variable of psql
)

// Token is a part of a statement.
type Token struct {
	Kind       TokenKind
	Start, End int // in Piece.Text
}

const (
	// MaxWhole is the length of the longest statement that comes as one piece.
	MaxWhole   = 128 << 10
	bufferSize = 4 * MaxWhole
	maxTokens  = 4096
	maxTag     = 4096 // bytes of the delimiter of a dollar quote
	maxWord    = 32   // bytes of a word that are looked at: keywords are shorter
)

// ErrTag says that a dollar quote's tag is longer than 4 KiB.
var ErrTag = errors.New("the tag of a dollar quote is longer than 4 KiB")

// Scanner divides a text. Its memory is bounded, whatever the text.
type Scanner struct {
	src io.Reader
	err error // why src gives no more
	bad error // what in the text cannot be read

	buf             []byte
	lex             []byte // buf, but for characters of several bytes in encodings that are not safe: see mask
	start, pos, end int    // the piece begins at start, what is read ends at end
	line            int    // of start
	kind            Kind   // of the piece

	mode  mode
	open  bool // a statement has begun
	first bool // nothing of it has been returned
	statement
	word    []byte // that is being read, or the name of a command, at most maxWord bytes
	opaque  bool   // the word is no identifier, but part of a number or a variable
	quote   byte   // around an argument of a command
	delim   []byte // of a dollar quote
	nesting int    // of comments
	token   int    // where the token under way began, in the piece

	read             bool     // the text's first bytes have been
	after            mode     // the mode in which the line goes on after rows of COPY
	bol              bool     // at the start of a row
	half             bool     // the next byte is the second of a character, see mask
	initial, session settings // of a new connection, and without what SET LOCAL has changed
	settings
	next line
}

// settings of psql's connection matter to what a text means.
type settings struct {
	std    bool   // standard_conforming_strings is on
	unsafe unsafe // the client's encoding, where that matters
}

// unsafe are encodings in which the second byte of a character may look like ASCII, a backslash even. Servers do not
// use them, clients may: see pg_wchar.h.
type unsafe uint8

const (
	safe   unsafe = iota
	sjis          // has characters of one byte beyond ASCII
	others        // have none: BIG5, GBK, GB18030, UHC, JOHAB
)

// line is what takes effect at the end of the line.
type line struct {
	any      bool // something does
	copies   int  // how many blocks of rows follow
	settings settings
}

// statement is what is known of the statement under way.
type statement struct {
	parens, begins int
	words          int     // see psqlscan.l, identifier_count
	initials       [4]byte // and identifiers
	tokens         []Token
	verb           []byte
	seen           int  // tokens, also those that are not kept
	begun          int  // those before the last \;
	copying        bool // the statement is a COPY
	from           int  // number of the token after FROM, 0 if there was none
	copies         int
}

// NewScanner returns a Scanner of what r holds. standardStrings is the setting standard_conforming_strings of
// psql's connection when it begins.
func NewScanner(r io.Reader, standardStrings bool) *Scanner {
	buf, initial := make([]byte, bufferSize), settings{std: standardStrings}
	return &Scanner{
		src: r, buf: buf, lex: buf, line: 1, word: make([]byte, 0, maxWord),
		initial: initial, session: initial, settings: initial,
	}
}

// Next returns the next piece. After the last one the error is that of the reader: io.EOF at the end.
func (s *Scanner) Next() (Piece, error) {
	s.line += bytes.Count(s.buf[s.start:s.pos], []byte{'\n'})
	s.start = s.pos
	switch {
	case s.mode == data:
		s.kind = Data
	case s.open:
		s.kind = Statement
	default:
		s.kind = Blank
	}
	for {
		if s.started() && s.run() {
			return s.piece(), nil
		}
		if s.bad != nil {
			return Piece{}, fmt.Errorf("line %d: %w", s.line, s.bad)
		}
		if s.err != nil {
			return s.last()
		}
		if s.full() {
			return s.piece(), nil
		}
		s.fill()
	}
}

// full says that the piece is to be returned although it goes on.
func (s *Scanner) full() bool {
	n := s.pos - s.start
	if s.kind == Command || (s.kind == Statement && s.first) {
		return n >= MaxWhole
	}
	return n > 0
}

// last returns what is left when there is nothing more to read.
func (s *Scanner) last() (Piece, error) {
	switch {
	case s.pos == s.start:
		return Piece{}, s.err
	case s.kind == Command:
		s.endCommand()
	case s.kind == Statement && s.open:
		s.finish()
	}
	return s.piece(), nil
}

// piece is what is between start and pos.
func (s *Scanner) piece() Piece {
	p := Piece{Kind: s.kind, Text: s.buf[s.start:s.pos], Line: s.line}
	if s.kind != Statement {
		return p
	}
	p.First, p.Last = s.first, !s.open
	if p.Whole() && len(s.tokens) == s.seen {
		p.Tokens, p.Verb = s.tokens, s.verb
	}
	s.first = false
	return p
}

// fill reads more, behind what is left of the piece.
func (s *Scanner) fill() {
	if s.start > 0 {
		copy(s.buf, s.buf[s.start:s.end])
		if s.unsafe != safe {
			copy(s.lex, s.lex[s.start:s.end])
		}
		s.pos, s.end, s.start = s.pos-s.start, s.end-s.start, 0
	}
	from := s.end
	for range 100 {
		n, err := s.src.Read(s.buf[s.end:])
		s.end += n
		if s.err = err; n > 0 || err != nil {
			s.mask(from)
			return
		}
	}
	s.err = io.ErrNoProgress
}

// started says that the text's first bytes are read, and passes over a byte order mark, as psql does.
func (s *Scanner) started() bool {
	const mark = "\xef\xbb\xbf"
	if s.read || (s.end < len(mark) && s.err == nil) {
		return s.read
	}
	if s.read = true; bytes.HasPrefix(s.buf[:s.end], []byte(mark)) {
		s.pos = len(mark)
	}
	return true
}

// peek returns the byte at i of the buffer, 0 behind the end of the text. It is not known
// when more has to be read.
func (s *Scanner) peek(i int) (c byte, known bool) {
	if i < s.end {
		return s.lex[i], true
	}
	return 0, s.err != nil
}
