package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// variable is one environment variable.
type variable struct{ name, value string }

// naming says what the variables of a clone are called and which address they
// hold. The zero value is DATABASE_URL and the address that the clone prefers.
type naming struct {
	url    string // --env-url
	prefix string // --env-prefix
	via    string // --via
}

func (n *naming) flags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "via", Usage: "address to hand out: `tcp|socket|published`", Destination: &n.via, Validator: oneOf("tcp", "socket", "published")},
		&cli.StringFlag{Name: "env-url", Usage: "`NAME` of the variable with the URL", DefaultText: "DATABASE_URL", Destination: &n.url, Validator: variableName},
		&cli.StringFlag{Name: "env-prefix", Usage: "put `P_` before the names of all variables but --env-url's", Destination: &n.prefix, Validator: variableName},
	}
}

// variableName is a validator. It is no regexp: to compile one costs every start of the program.
func variableName(s string) error {
	for i, r := range s {
		letter := r == '_' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z'
		if !letter && (i == 0 || r < '0' || r > '9') {
			return errors.New("want a name of A-Z, a-z, 0-9 and _")
		}
	}
	return nil
}

// way returns by which way the clone is reached, and its URL. The clone's own
// URL counts where none is asked for.
func (n naming) way(c api.Clone) (way, url string, err error) {
	if n.via != "" {
		url, ok := c.URLs[n.via]
		if !ok {
			return "", "", &api.Error{
				Code: api.CodeUsage, Message: fmt.Sprintf("clone %s has no %s address", c.ID, n.via),
				Hint: "it has: " + strings.Join(slices.Sorted(maps.Keys(c.URLs)), ", "),
			}
		}
		return n.via, url, nil
	}
	for _, way := range []string{"tcp", "socket"} {
		if c.URLs[way] == c.URL && c.URL != "" {
			return way, c.URL, nil
		}
	}
	return "", c.URL, nil
}

// of returns the variables of one clone, sorted but for the URL, which comes
// first. group ("SHOP_") and suffix ("_1") tell the clones of one job apart.
func (n naming) of(c api.Clone, group, suffix string) ([]variable, error) {
	way, url, err := n.way(c)
	if err != nil {
		return nil, err
	}
	prefix := n.prefix + group
	name := prefix + "DATABASE_URL"
	if n.url != "" {
		name = group + n.url
	}
	vars := []variable{{name + suffix, url}}
	own := maps.Clone(c.Env[way])
	if own == nil {
		own = map[string]string{}
	}
	own["CTRSNAP_CLONE_ID"] = c.ID
	own["CTRSNAP_EXPIRES_AT"] = "" // it ends with its job; and that of a job around this one does not count
	if c.ExpiresAt != nil {
		own["CTRSNAP_EXPIRES_AT"] = c.ExpiresAt.UTC().Format(time.RFC3339)
	}
	delete(own, "DATABASE_URL")
	for _, k := range slices.Sorted(maps.Keys(own)) {
		vars = append(vars, variable{prefix + k + suffix, own[k]})
	}
	return vars, nil
}

// all returns the variables of the clones of one golden; several are numbered.
func (n naming) all(clones []api.Clone, group string, numbered bool) ([]variable, error) {
	var vars []variable
	for i, c := range clones {
		suffix := ""
		if numbered {
			suffix = "_" + strconv.Itoa(i+1)
		}
		v, err := n.of(c, group, suffix)
		if err != nil {
			return nil, err
		}
		vars = append(vars, v...)
	}
	return vars, nil
}

// withVariables returns the environment base with vars in it, and without those
// that would lead a client elsewhere all the same.
func withVariables(base []string, vars []variable, misleading []string) []string {
	drop := map[string]bool{}
	for _, v := range vars {
		drop[v.name] = true
	}
	for _, name := range misleading {
		drop[name] = true
	}
	env := slices.DeleteFunc(slices.Clone(base), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return drop[name]
	})
	for _, v := range vars {
		env = append(env, v.name+"="+v.value)
	}
	return env
}
