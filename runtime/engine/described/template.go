package described

import (
	"fmt"
	"net/url"
	"strings"
	"text/template"
	"text/template/parse"
)

// Fields are what templates of a description can say. Which of them are set
// depends on the place; the others are "".
type Fields struct {
	Data   string // the data directory
	Run    string // directory of the unix socket, in the container
	Build  string // directory for files of the build that is removed at its end
	Host   string // address: of the clone in Connect, else the loopback one
	Port   string
	Socket string // path of the unix socket: on the host in Connect, else in the container
	User   string // the login that clones are handed out with
	// Password and Database are those of the login.
	Password, Database string
	Golden             string
	File               string // of Scripts and Dump: path in the container
	Name, Value        string // of Settings.Args
	NewPassword        string // of Password
	// Of Build.URL, the live database's. URLHost is an address.
	URLHost, URLPort, URLUser, URLPassword, URLDatabase string
}

// funcs are the functions of templates: text for a URL, a literal and a name of
// SQL (MySQL's dialect), a word of a shell, and a value of MySQL's option files.
var funcs = template.FuncMap{
	"escape": url.PathEscape,
	"sql":    func(s string) string { return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'" },
	"ident":  func(s string) string { return "`" + strings.ReplaceAll(s, "`", "``") + "`" },
	"ini":    func(s string) string { return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"` },
	"shell":  func(s string) string { return "'" + strings.ReplaceAll(s, `'`, `'\''`) + "'" },
}

// expand expands a template that validate has accepted.
func (f Fields) expand(text string) (string, error) {
	if !strings.Contains(text, "{{") {
		return text, nil
	}
	t, err := template.New("").Funcs(funcs).Parse(text)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	err = t.Execute(&out, f)
	return out.String(), err
}

func (f Fields) all(texts []string) ([]string, error) {
	out := make([]string, 0, len(texts))
	for _, text := range texts {
		s, err := f.expand(text)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

func (f Fields) values(texts map[string]string) (map[string]string, error) {
	out := make(map[string]string, len(texts))
	for k, text := range texts {
		s, err := f.expand(text)
		if err != nil {
			return nil, err
		}
		out[k] = s
	}
	return out, nil
}

// checkTemplate accepts text, fields, our functions and if: nothing that could
// loop or grow.
func checkTemplate(text string) error {
	t, err := template.New("").Funcs(funcs).Parse(text)
	if err != nil {
		return invalid("%s", strings.TrimPrefix(err.Error(), "template: "))
	}
	if len(t.Templates()) > 1 {
		return invalid("template %.40q: no definitions here", text)
	}
	if t.Tree == nil {
		return nil
	}
	if err := checkNode(t.Root); err != nil {
		return invalid("template %.40q: %s", text, err)
	}
	if _, err := (Fields{}).expand(text); err != nil {
		return invalid("template %.40q: %s", text, err)
	}
	return nil
}

func checkNode(n parse.Node) error {
	switch n := n.(type) {
	case *parse.ListNode:
		if n == nil {
			return nil
		}
		for _, c := range n.Nodes {
			if err := checkNode(c); err != nil {
				return err
			}
		}
	case *parse.TextNode, *parse.CommentNode, *parse.FieldNode, *parse.StringNode:
	case *parse.ActionNode:
		return checkNode(n.Pipe)
	case *parse.IfNode:
		for _, c := range []parse.Node{n.Pipe, n.List, n.ElseList} {
			if err := checkNode(c); err != nil {
				return err
			}
		}
	case *parse.PipeNode:
		if len(n.Decl) > 0 {
			return fmt.Errorf("no variables here")
		}
		for _, c := range n.Cmds {
			if err := checkNode(c); err != nil {
				return err
			}
		}
	case *parse.CommandNode:
		for _, c := range n.Args {
			if err := checkNode(c); err != nil {
				return err
			}
		}
	case *parse.IdentifierNode:
		if funcs[n.Ident] == nil && n.Ident != "eq" && n.Ident != "or" && n.Ident != "and" && n.Ident != "not" {
			return fmt.Errorf("unknown function %s", n.Ident)
		}
	default:
		return fmt.Errorf("%s is not for here", n)
	}
	return nil
}
