package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"text/template"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

// allFormats are the values of -o and CTRSNAP_OUTPUT; a verb has some of them.
var allFormats = []string{"url", "json", "env", "dotenv", "github", "table"}

// output is what -o and --format of a verb say.
type output struct {
	formats []string // that the verb has; the first one is its default
	format  string
	source  string // of the template
	tmpl    *template.Template
}

// newOutput returns the output of a verb that has formats, its default first.
func newOutput(formats ...string) *output { return &output{formats: formats} }

func (o *output) flags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "output `FORMAT`: " + strings.Join(o.formats, ", "), DefaultText: o.formats[0] + ", or CTRSNAP_OUTPUT", Destination: &o.format},
		&cli.StringFlag{Name: "format", Usage: "output by a Go `TEMPLATE` over the fields of -o json", Destination: &o.source},
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
		return o.parse()
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
	if err := o.tmpl.Execute(&buf, fields(v)); err != nil {
		return usagef("fields are named as in -o json: {{.id}}").of("--format: %v", err)
	}
	_, err := fmt.Fprintln(w, buf.String())
	return err
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
	for t, i := reflect.TypeOf(doc), 0; i < t.NumField(); i++ {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if _, ok := m[name]; !ok {
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

// list is the document of a list, which has a name of its own in it.
type list[T any] struct {
	key  string
	docs []T
}

// MarshalJSON writes the list as people expect it: the schema first.
func (l list[T]) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	err := printLine(&b, append([]T{}, l.docs...)) // never null
	return fmt.Appendf(nil, `{"schema":%d,%q:%s}`, api.Schema, l.key, b.Bytes()), err
}

// listing says how documents of one kind are listed.
type listing[T any] struct {
	key    string // of the list in JSON
	header string // of the table
	row    func(T) []string
}

// print writes docs in the format that out says.
func (l listing[T]) print(w io.Writer, out *output, docs []T) error {
	switch out.format {
	case "json":
		return printJSON(w, list[T]{l.key, docs})
	case "template":
		for _, doc := range docs {
			if err := out.execute(w, doc); err != nil {
				return err
			}
		}
		return nil
	}
	return l.table(w, docs)
}

func (l listing[T]) table(w io.Writer, docs []T) error {
	var rows [][]string
	for _, doc := range docs {
		rows = append(rows, l.row(doc))
	}
	return table(w, l.header, rows)
}

// printDocument writes doc in the format that out says, or by plain where that is none for programs.
func printDocument[T any](w io.Writer, out *output, doc T, plain func(io.Writer, T) error) error {
	switch out.format {
	case "json":
		return printJSON(w, doc)
	case "template":
		return out.execute(w, doc)
	}
	return plain(w, doc)
}

// answering completes c, a command that asks the daemon and prints the answer.
func answering[T any](a *app, out *output, c *cli.Command, ask func(context.Context, *client.Client, []string) (T, error), print func(T) error) *cli.Command {
	c.Flags = append(c.Flags, out.flags()...)
	c.Action = func(ctx context.Context, cmd *cli.Command) error {
		args, err := arguments(cmd)
		if err != nil {
			return err
		}
		d, err := a.connectFor(out)
		if err != nil {
			return err
		}
		answer, err := ask(ctx, d, args)
		if err != nil {
			return about(err, "%s", strings.Join(append([]string{verb(cmd)}, args...), " "))
		}
		return print(answer)
	}
	return c
}

// listCommand completes c, a command that lists.
func listCommand[T any](a *app, l listing[T], c *cli.Command, ask func(context.Context, *client.Client, []string) ([]T, error)) *cli.Command {
	out := newOutput("table", "json")
	return answering(a, out, c, ask, func(docs []T) error { return l.print(a.stdout, out, docs) })
}

// showCommand completes c, a command that prints one document, by plain unless it is told otherwise.
func showCommand[T any](a *app, out *output, c *cli.Command, ask func(context.Context, *client.Client, []string) (T, error), plain func(io.Writer, T) error) *cli.Command {
	return answering(a, out, c, ask, func(doc T) error { return printDocument(a.stdout, out, doc, plain) })
}

// nothing is what a route takes that needs no arguments.
func nothing[T any](r api.Route[api.None, T]) func(context.Context, *client.Client, []string) (T, error) {
	return func(ctx context.Context, d *client.Client, _ []string) (T, error) {
		return client.Do(ctx, d, r, api.None{})
	}
}

var cloneListing = listing[api.Clone]{"clones", "ID NAME GOLDEN STATE AGE EXPIRES ADDRESS DISK MEMORY", func(c api.Clone) []string {
	now := time.Now()
	return []string{
		c.ID, c.Name, c.Golden + ":" + strconv.Itoa(c.Version), string(c.State), age(now.Sub(c.CreatedAt)),
		expiry(c, now), addresses(c), size(c.DiskBytes), size(c.MemoryBytes),
	}
}}

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
