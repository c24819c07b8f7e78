package postgres

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
)

// name is an SQL identifier as pg_dump writes it.
const name = `("(?:[^"]|"")+"|[a-z_][a-z0-9_$]*)`

var (
	// roleREs are the lines in which a dump names roles. Privileges are written
	// to one line each by dumputils.c, so a line is enough to look at.
	roleREs = []*regexp.Regexp{
		regexp.MustCompile(`^ALTER .* OWNER TO ` + name + `;$`),
		regexp.MustCompile(`^(?:GRANT|REVOKE) .* (?:TO|FROM) (?:GROUP )?` + name + `(?: WITH GRANT OPTION)?(?: GRANTED BY .*)?;$`),
		regexp.MustCompile(`^ALTER DEFAULT PRIVILEGES FOR ROLE ` + name + ` `),
		regexp.MustCompile(`^ALTER DEFAULT PRIVILEGES .* (?:TO|FROM) ` + name + `(?: WITH GRANT OPTION)?;$`),
		regexp.MustCompile(`^SET SESSION AUTHORIZATION ` + name + `;$`),
		regexp.MustCompile(`^CREATE USER MAPPING FOR ` + name + ` `),
		regexp.MustCompile(`^CREATE SCHEMA .* AUTHORIZATION ` + name + `;$`),
	}
	policyRE   = regexp.MustCompile(`^CREATE POLICY .* TO ((?:` + name + `(?:, )?)+)(?: USING| WITH CHECK|;)`)
	nameListRE = regexp.MustCompile(name)
	createRE   = regexp.MustCompile(`^CREATE DATABASE ` + name + ` (WITH .*);$`)
	alterRE    = regexp.MustCompile(`^(ALTER DATABASE )` + name + `( (?:OWNER TO|SET) .*;)$`)
	settingsRE = regexp.MustCompile(`^(ALTER ROLE .* IN DATABASE )` + name + `( SET .*;)$`)
	grantDBRE  = regexp.MustCompile(`^((?:GRANT|REVOKE) .* ON DATABASE )` + name + `( .*;)$`)
	commentRE  = regexp.MustCompile(`^(COMMENT ON DATABASE )` + name + `( IS .*;)$`)
)

// schema takes the text of a dump without data and picks what has to be done
// before it is restored. It is an io.Writer.
type schema struct {
	roles  []string // quoted where need be
	create string   // options of CREATE DATABASE
	alter  []around // statements about the database
	tables int64    // how many hold data
	counts map[string]int64
	rest   []byte // a line that is not whole yet
}

// around is a statement about a database, without the database's name.
type around struct{ before, after string }

func newSchema() *schema { return &schema{counts: map[string]int64{}} }

// Write never fails.
func (s *schema) Write(p []byte) (int, error) {
	s.rest = append(s.rest, p...)
	for {
		i := bytes.IndexByte(s.rest, '\n')
		if i < 0 {
			return len(p), nil
		}
		s.line(strings.TrimSuffix(string(s.rest[:i]), "\r"))
		s.rest = s.rest[i+1:]
	}
}

func (s *schema) line(line string) {
	for _, role := range rolesOf(line) {
		if !slices.Contains(s.roles, role) {
			s.roles = append(s.roles, role)
		}
	}
	if m := createRE.FindStringSubmatch(line); m != nil {
		s.create = m[2]
	}
	for _, re := range []*regexp.Regexp{alterRE, settingsRE, grantDBRE, commentRE} {
		if m := re.FindStringSubmatch(line); m != nil {
			s.alter = append(s.alter, around{m[1], m[3]})
		}
	}
	if strings.HasPrefix(line, "CREATE TABLE ") {
		s.counts["TABLE"]++
	}
}

func (s *schema) count(kind string) int64 { return s.counts[kind] }

// rolesOf returns the roles that a line of a dump names. Words that are no
// roles there are left out.
func rolesOf(line string) []string {
	var roles []string
	for _, re := range roleREs {
		if m := re.FindStringSubmatch(line); m != nil {
			roles = append(roles, m[1])
		}
	}
	if m := policyRE.FindStringSubmatch(line); m != nil {
		roles = append(roles, nameListRE.FindAllString(m[1], -1)...)
	}
	return slices.DeleteFunc(roles, func(r string) bool {
		switch strings.ToLower(r) {
		case "public", "default", "current_user", "session_user", "current_role":
			return true
		}
		return strings.HasPrefix(strings.Trim(r, `"`), "pg_") // predefined
	})
}
