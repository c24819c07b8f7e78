package psql

import "bytes"

// scanData reads rows of COPY to the line that ends them.
func (s *Scanner) scanData() bool {
	for s.pos < s.end {
		if s.bol && s.buf[s.pos] == '\\' {
			known, end := s.endsData()
			if !known {
				return false
			}
			if end > 0 {
				s.pos = end
				s.endData()
				return true
			}
		}
		s.bol = false
		i := bytes.Index(s.buf[s.pos:s.end], []byte("\n\\"))
		if i < 0 {
			s.bol = s.buf[s.end-1] == '\n'
			s.pos = s.end
			return false
		}
		s.pos += i + 1
		s.bol = true
	}
	return false
}

// endsData says where the line at pos ends if it ends rows, 0 if it does not.
func (s *Scanner) endsData() (known bool, end int) {
	for _, marker := range []string{"\\.\n", "\\.\r\n"} {
		text := s.buf[s.pos:min(s.end, s.pos+len(marker))]
		if string(text) == marker {
			return true, s.pos + len(marker)
		}
		if len(text) < len(marker) && s.err == nil && marker[:len(text)] == string(text) {
			return false, 0
		}
	}
	return true, 0
}

// endData goes on with what follows rows: those of the next COPY on the same line, or the rest of the line
// has been read already, and the text goes on as it ended.
func (s *Scanner) endData() {
	if s.next.copies > 0 {
		s.next.copies--
		s.bol = true
		return
	}
	s.mode = s.after
}

// endLine does what takes effect at the end of a line. It says whether rows follow.
func (s *Scanner) endLine() bool {
	before, next := s.settings, s.next
	s.settings, s.next = next.settings, line{copies: max(0, next.copies-1)}
	if s.unsafe != before.unsafe {
		s.unmask()
	}
	if next.copies > 0 {
		s.after, s.mode, s.bol = s.mode, data, true
	}
	return next.copies > 0
}

// mask makes lex of what was read since from. In unsafe encodings psql, and so lex, has 0xff in place of the
// second byte of a character.
func (s *Scanner) mask(from int) {
	if s.unsafe == safe {
		return
	}
	for i, c := range s.buf[from:s.end] {
		if s.half && c != '\n' {
			c, s.half = 0xff, false
		} else {
			s.half = c >= 0x80 && (s.unsafe != sjis || c < 0xa1 || c > 0xdf)
		}
		s.lex[from+i] = c
	}
}

// unmask begins anew with lex at pos.
func (s *Scanner) unmask() {
	s.lex, s.half = s.buf, false
	if s.unsafe != safe {
		s.lex = make([]byte, len(s.buf))
		copy(s.lex, s.buf[:s.pos])
		s.mask(s.pos)
	}
}
