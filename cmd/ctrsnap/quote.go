package main

import (
	"crypto/rand"
	"strings"
)

// shellQuote returns s as one word of a POSIX shell that stands for s literally.
func shellQuote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// dotenvQuote returns s as a value of a .env file. There is no one grammar:
// plain where every reader (docker --env-file among them, which knows no quotes)
// agrees, in single quotes where nothing in it needs an escape, else in double
// quotes with the escapes that node, ruby, python and compose share.
func dotenvQuote(s string) string {
	switch {
	case strings.IndexFunc(s, notPlain) < 0:
		return s
	case !strings.ContainsAny(s, "'\n\r\\"):
		return "'" + s + "'"
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`, "\n", `\n`, "\r", `\r`).Replace(s) + `"`
}

func notPlain(r rune) bool {
	plain := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-./:@%?&=+,~", r)
	return !plain
}

// githubEntry returns an entry of the file $GITHUB_ENV. The delimiter is
// random, so that no value can end its entry and begin another; see
// https://docs.github.com/actions/reference/workflow-commands-for-github-actions#multiline-strings.
func githubEntry(name, value string) string {
	delimiter := "ctrsnap_" + rand.Text()
	return name + "<<" + delimiter + "\n" + value + "\n" + delimiter + "\n"
}

// githubMask returns the workflow command that hides secret in a job's log.
func githubMask(secret string) string {
	return "::add-mask::" + strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A").Replace(secret)
}
