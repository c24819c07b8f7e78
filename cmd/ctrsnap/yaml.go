package main

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"unicode"
)

// printYAML writes a document as YAML, with its fields named and ordered as in JSON.
func printYAML(w io.Writer, v any) error {
	var b, out bytes.Buffer
	if err := printLine(&b, v); err != nil {
		return err
	}
	dec := json.NewDecoder(&b)
	dec.UseNumber()
	if err := yamlValue(&out, dec, ""); err != nil {
		return err
	}
	_, err := w.Write(bytes.TrimPrefix(out.Bytes(), []byte("\n")))
	return err
}

// yamlValue writes the next value: a scalar after a space, what has parts from a new line on, each indented.
func yamlValue(out *bytes.Buffer, dec *json.Decoder, indent string) error {
	t, err := dec.Token()
	if err != nil {
		return err
	}
	d, nested := t.(json.Delim)
	if !nested {
		out.WriteString(" " + yamlScalar(t) + "\n")
		return nil
	}
	if !dec.More() {
		out.WriteString(" " + map[json.Delim]string{'{': "{}", '[': "[]"}[d] + "\n")
	} else {
		out.WriteString("\n")
	}
	for dec.More() {
		if d == '[' {
			out.WriteString(indent + "-")
		} else {
			key, err := dec.Token()
			if err != nil {
				return err
			}
			out.WriteString(indent + yamlScalar(key) + ":")
		}
		if err := yamlValue(out, dec, indent+"  "); err != nil {
			return err
		}
	}
	_, err = dec.Token() // the closing one
	return err
}

// yamlScalar writes strings as JSON does, which YAML reads, but for those that cannot be taken for anything else.
func yamlScalar(t json.Token) string {
	if s, ok := t.(string); ok && yamlPlain(s) {
		return s
	}
	var b bytes.Buffer
	_ = printLine(&b, t) // a buffer takes all
	return strings.TrimSpace(b.String())
}

func yamlPlain(s string) bool {
	switch strings.ToLower(s) {
	case "", "true", "false", "null", "yes", "no", "on", "off", "y", "n":
		return false
	}
	return unicode.IsLetter(rune(s[0])) && s[0] < unicode.MaxASCII && strings.IndexFunc(s, func(r rune) bool {
		return r > unicode.MaxASCII || !isIdentifier(r) && !strings.ContainsRune("-./", r)
	}) < 0
}
