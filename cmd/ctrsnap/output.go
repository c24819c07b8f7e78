package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"text/template"
	"time"
	"unicode"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// allFormats are the values of -o and CTRSNAP_OUTPUT; a verb has some of them.
var allFormats = []string{"url", "json", "yaml", "env", "dotenv", "github", "table", "name"}

// output is what -o and --format of a verb say.
type output struct {
	formats []string // that the verb has; the first one is its default
	format  string
	source  string // of the template
	tmpl    *template.Template
	quiet   bool // names only
}

// newOutput returns the output of a verb that has formats, its default first. What has JSON has YAML, too.
func newOutput(formats ...string) *output {
	if i := slices.Index(formats, "json"); i >= 0 {
		formats = slices.Insert(formats, i+1, "yaml")
	}
	return &output{formats: formats}
}

func (o *output) flags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "output `FORMAT`: " + strings.Join(o.formats, ", "), DefaultText: o.formats[0] + ", or CTRSNAP_OUTPUT", Destination: &o.format},
		&cli.StringFlag{Name: "format", Usage: "output by a Go `TEMPLATE` over the fields of -o json; the name of a format is as with -o", Destination: &o.source},
	}
}

// resolve checks the flags and settles on a format. A format of the environment
// that the verb does not have is passed over: it is meant for other verbs.
func (o *output) resolve(env string) error {
	if env != "" && !slices.Contains(allFormats, env) {
		return usagef("formats are: %s", strings.Join(allFormats, ", ")).of("unknown output format %q in CTRSNAP_OUTPUT", env)
	}
	if o.source != "" {
		if o.format != "" {
			return usagef("use one of them").of("--format and -o exclude each other")
		}
		if !slices.Contains(o.formats, o.source) {
			return o.parse()
		}
		o.format = o.source
	}
	if o.quiet {
		o.format = "name"
	}
	switch {
	case o.format == "" && slices.Contains(o.formats, env):
		o.format = env
	case o.format == "":
		o.format = o.formats[0]
	case !slices.Contains(o.formats, o.format):
		return usagef("use one of: %s", strings.Join(o.formats, ", ")).of("unknown output format %q", o.format)
	}
	return nil
}

func (o *output) parse() (err error) {
	o.format = "template"
	o.tmpl, err = template.New("format").Option("missingkey=error").Funcs(template.FuncMap{"json": toJSON}).Parse(o.source)
	if err != nil {
		return usagef("an example: --format '{{.url}}'").of("invalid --format: %v", err)
	}
	return nil
}

func toJSON(v any) (string, error) {
	b, err := json.Marshal(v)
	return string(b), err
}

// execute writes v by the template of --format, on a line of its own.
func (o *output) execute(w io.Writer, v any) error {
	var buf bytes.Buffer
	doc := fields(v)
	o.addAsked(doc)
	if err := o.tmpl.Execute(&buf, doc); err != nil {
		return usagef("fields are named as in -o json: {{.id}}").of("--format: %v", templateError(err))
	}
	_, err := fmt.Fprintln(w, buf.String())
	return err
}

// addAsked gives the maps of a document, as labels, an empty value for each key that the template names: a document that
// has no such label must not end a list. A field that does not exist is still an error.
func (o *output) addAsked(doc map[string]any) {
	for name, v := range doc {
		m, ok := v.(map[string]string)
		if !ok {
			continue
		}
		for _, rest := range strings.Split(o.source, "."+name+".")[1:] {
			key := rest[:len(rest)-len(strings.TrimLeftFunc(rest, isIdentifier))]
			if _, has := m[key]; !has {
				m[key] = ""
			}
		}
	}
}

func isIdentifier(r rune) bool { return r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r) }

// templateError leaves out where in the template the error is: people see the template before them.
func templateError(err error) string {
	_, what, found := strings.Cut(err.Error(), ">: ")
	if !found {
		what = strings.TrimPrefix(err.Error(), "template: format:")
	}
	return strings.Replace(what, "map has no entry for key", "there is no field", 1)
}

// fields returns a document's fields by their names in JSON, those too that
// JSON leaves out where they are empty.
func fields(doc any) map[string]any {
	b, err := json.Marshal(doc)
	if err != nil {
		return nil // the API's documents are plain data
	}
	var m map[string]any
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	if dec.Decode(&m) != nil {
		return nil
	}
	for v, i := reflect.ValueOf(doc), 0; i < v.NumField(); i++ {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		if texts, ok := v.Field(i).Interface().(map[string]string); ok {
			m[name] = maps.Collect(maps.All(texts)) // its own, and not nil
		} else if _, ok := m[name]; !ok {
			m[name] = ""
		}
	}
	return numbers(m).(map[string]any)
}

// numbers makes numbers of v's json.Numbers: whole ones print without exponent.
func numbers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = numbers(v[k])
		}
	case []any:
		for i := range v {
			v[i] = numbers(v[i])
		}
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, _ := v.Float64()
		return f
	}
	return v
}

// printJSON writes one document, indented for people, on lines of its own.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// printLine prints a document in one line.
func printLine(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// table writes rows below a header, in columns.
func table(w io.Writer, header string, rows [][]string) error {
	tw := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	fmt.Fprintln(tw, strings.ReplaceAll(header, " ", "\t"))
	for _, row := range rows {
		for i := range row {
			if row[i] == "" {
				row[i] = "-"
			}
		}
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	return tw.Flush()
}

var cloneListing = listing[api.Clone]{"clones", "ID NAME GOLDEN STATE AGE EXPIRES ADDRESS DISK MEMORY", func(c api.Clone) []string {
	now := time.Now()
	return []string{
		c.ID, c.Name, c.Golden + ":" + strconv.Itoa(c.Version), state(c), age(now.Sub(c.CreatedAt)),
		expiry(c, now), addresses(c), size(c.DiskBytes), size(c.MemoryBytes),
	}
}, func(c api.Clone) string { return c.ID }}

// state is that of a clone, with what sets it apart from all others.
func state(c api.Clone) string {
	if c.State == api.StateDead && c.Reason != "" {
		return string(c.State) + ": " + oneLine(c.Reason)
	}
	if c.Isolation == api.IsolationRunc {
		return string(c.State) + ", isolation: " + string(c.Isolation)
	}
	return string(c.State)
}

func expiry(c api.Clone, now time.Time) string {
	if c.ExpiresAt == nil {
		return "with its job"
	}
	return "in " + age(c.ExpiresAt.Sub(now))
}

// addresses are where a clone is reached, its own first.
func addresses(c api.Clone) string {
	return strings.Join(append([]string{address(c)}, c.Published...), ",")
}

func address(c api.Clone) string {
	if c.Host != "" {
		return c.Host + ":" + strconv.Itoa(c.Port)
	}
	return c.Socket
}

// age is a duration in its largest unit, rounded down.
func age(d time.Duration) string {
	switch d = max(d, 0); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// size is a number of bytes in binary units.
func size(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%dB", n)
	}
	f, unit := float64(n), -1
	for f >= 1024 && unit < 5 {
		f, unit = f/1024, unit+1
	}
	return fmt.Sprintf("%.1f%ciB", f, "KMGTPE"[unit])
}
