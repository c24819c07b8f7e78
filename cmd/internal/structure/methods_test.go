package structure

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// mostMethods is how many methods a type has at most: one with more has several jobs, under one lock.
const mostMethods = 40

// large are types that have more, and why.
var large = map[string]string{
	"bench/scenario.take":           "it measures, and runs in no daemon",
	"cmd/ctrsnap.app":               "a method for each verb of the command line",
	"cmd/ctrsnapd.daemon":           "it opens the daemon's parts one after the other",
	"network/bridge.Network":        "to be cut: bridges with their addresses are a job of their own",
	"network/cni.Network":           "to be cut: who is a member of which network is a job of its own",
	"runtime/engine/postgres.build": "to be cut: sources, log in and settings are jobs of their own",
	"snapshot/golden.Store":         "to be cut: clones and builds are jobs of their own",

	"runtime/engine/postgres/psql.Scanner": "one method for each thing that psql reads",
}

func TestTypesHaveOneJob(t *testing.T) {
	methods := map[string]int{}
	for _, p := range packages(t) {
		tree := strings.TrimPrefix(p.ImportPath, module+"/")
		for _, name := range p.GoFiles {
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			for _, decl := range file.Decls {
				if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv != nil {
					methods[tree+"."+receiver(fn.Recv.List[0].Type)]++
				}
			}
		}
	}
	for typ, n := range methods {
		if n > mostMethods && large[typ] == "" {
			t.Errorf("%s has %d methods: a type with more than %d has several jobs", typ, n, mostMethods)
		}
	}
	for typ := range large {
		if methods[typ] <= mostMethods {
			t.Errorf("%s has %d methods: it is large no more", typ, methods[typ])
		}
	}
}

// receiver is the name of a method's type.
func receiver(typ ast.Expr) string {
	switch typ := typ.(type) {
	case *ast.StarExpr:
		return receiver(typ.X)
	case *ast.IndexExpr:
		return receiver(typ.X)
	case *ast.IndexListExpr:
		return receiver(typ.X)
	case *ast.Ident:
		return typ.Name
	}
	return ""
}
