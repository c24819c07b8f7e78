package postgres

import (
	"slices"
	"strings"

	"github.com/ctrsnap/ctrsnap/runtime/engine/postgres/psql"
)

// stmt is a whole statement of a dump.
type stmt struct {
	text   []byte
	tokens []psql.Token
}

func (s stmt) raw(i int) string {
	if i < 0 || i >= len(s.tokens) {
		return ""
	}
	return string(s.text[s.tokens[i].Start:s.tokens[i].End])
}

// word is a keyword in capitals; "" where there is none.
func (s stmt) word(i int) string {
	if i < 0 || i >= len(s.tokens) || s.tokens[i].Kind == psql.Quoted || s.tokens[i].Kind == psql.String {
		return ""
	}
	return strings.ToUpper(s.raw(i))
}

// has says whether the keywords are at i. One of several is written A|B.
func (s stmt) has(i int, words ...string) bool {
	for n, w := range words {
		if !slices.Contains(strings.Split(w, "|"), s.word(i+n)) {
			return false
		}
	}
	return true
}

// find returns where keywords are first, from i on and outside of parentheses; -1 if they are not.
func (s stmt) find(i int, words ...string) int {
	for depth := 0; i < len(s.tokens); i++ {
		switch s.word(i) {
		case "(":
			depth++
		case ")":
			depth--
		}
		if depth == 0 && s.has(i, words...) {
			return i
		}
	}
	return -1
}

// after is find, but returns where the keywords end; -1 if they are not there.
func (s stmt) after(i int, words ...string) int {
	if i = s.find(i, words...); i < 0 {
		return -1
	}
	return i + len(words)
}

// name is the identifier at i as the server knows it; "" where there is none, or one by Unicode escapes.
func (s stmt) name(i int) string {
	if i < 0 || i >= len(s.tokens) {
		return ""
	}
	text := s.raw(i)
	switch s.tokens[i].Kind {
	case psql.Word:
		return lower(text)
	case psql.Quoted:
		if text[0] == '"' && len(text) > 2 {
			return strings.ReplaceAll(text[1:len(text)-1], `""`, `"`)
		}
	}
	return ""
}

// lower changes what a server changes in a name without quotes.
func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// roleName is the role that is named at i; "" where there is none, or one that every server has.
func (s stmt) roleName(i int) string {
	n := s.name(i)
	switch {
	case n == "public", n == "none", strings.HasPrefix(n, "pg_"):
		return ""
	case s.has(i, "CURRENT_USER|SESSION_USER|CURRENT_ROLE|DEFAULT"):
		return ""
	}
	return n
}

// roleNames are the roles of a list that begins at i.
func (s stmt) roleNames(i int) (names []string) {
	for more := i > 0; more; i++ {
		if s.has(i, "GROUP") {
			i++
		}
		names = append(names, s.roleName(i))
		i++
		more = s.has(i, ",")
	}
	return names
}

// roles are those that a dump of one database names and does not make: owners, and those with privileges.
func (s stmt) roles() []string {
	var names []string
	switch s.word(0) {
	case "GRANT":
		names = append(s.roleNames(s.after(1, "TO")), s.roleName(s.after(1, "GRANTED", "BY")))
	case "REVOKE":
		names = append(s.roleNames(s.after(1, "FROM")), s.roleName(s.after(1, "GRANTED", "BY")))
	case "ALTER":
		names = s.alterRoles()
	case "CREATE":
		names = s.createRoles()
	case "SET":
		if i := s.after(1, "SESSION", "AUTHORIZATION"); i > 0 && i < 5 {
			names = []string{s.authorized(i)}
		}
	}
	return slices.DeleteFunc(names, func(n string) bool { return n == "" })
}

func (s stmt) alterRoles() []string {
	switch {
	case s.has(1, "DEFAULT", "PRIVILEGES"):
		names := s.roleNames(s.after(3, "FOR", "ROLE|USER"))
		return append(append(names, s.roleNames(s.after(3, "TO"))...), s.roleNames(s.after(3, "FROM"))...)
	case s.has(1, "POLICY"):
		return s.roleNames(s.after(3, "TO"))
	case s.has(1, "ROLE|USER") && s.has(3, "IN", "DATABASE"):
		return []string{s.roleName(2)}
	}
	i := s.after(2, "OWNER", "TO")
	if s.has(i-3, "RENAME|COLUMN|ATTRIBUTE|CONSTRAINT|VALUE|SET") {
		return nil // something that is called owner
	}
	return []string{s.roleName(i)}
}

func (s stmt) createRoles() []string {
	switch {
	case s.has(1, "POLICY"):
		return s.roleNames(s.after(3, "TO"))
	case s.has(1, "USER", "MAPPING"):
		return []string{s.roleName(s.after(3, "FOR"))}
	case s.has(1, "SCHEMA"):
		return []string{s.roleName(s.after(2, "AUTHORIZATION"))}
	case s.has(1, "DATABASE") && s.has(s.after(3, "OWNER"), "="):
		return []string{s.roleName(s.after(3, "OWNER", "="))}
	case s.has(1, "DATABASE"):
		return []string{s.roleName(s.after(3, "OWNER"))}
	}
	return nil
}

// authorized is the role of SET SESSION AUTHORIZATION, which pg_dump writes as a string.
func (s stmt) authorized(i int) string {
	text := s.raw(i)
	if !strings.HasPrefix(text, "'") || len(text) < 3 {
		return s.roleName(i)
	}
	if text = text[1 : len(text)-1]; strings.Contains(text, `\`) {
		return ""
	}
	return strings.ReplaceAll(text, "''", "'")
}

// excerpt is the beginning of a statement, for people.
func excerpt(sql string) string {
	text := oneLine(strings.ToValidUTF8(strings.TrimSuffix(strings.TrimSpace(sql), ";"), "?"))
	if r := []rune(text); len(r) > 100 {
		text = string(r[:100]) + "…"
	}
	return text
}
