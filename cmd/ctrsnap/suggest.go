package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/ctrsnap/ctrsnap/cmd/internal/cmdline"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

// suggestTimeout bounds the look for a name that was probably meant.
const suggestTimeout = time.Second

// suggest gives the errors of goldens and clones that are not there a hint at one whose name is nearly the same.
func (a *app) suggest(err error) {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range many.Unwrap() {
			a.suggest(err)
		}
		return
	}
	e := notFoundError(err)
	if e == nil {
		return
	}
	list, name := a.goldenNames, ""
	if _, rest, ok := strings.Cut(e.Message, `no clone "`); ok {
		list = a.cloneNames
		name, _, _ = strings.Cut(rest, `"`)
	} else if before, _, ok := strings.Cut(e.Message, ": not found"); ok {
		_, name, _ = strings.Cut(before[strings.LastIndex(before, ": ")+1:], "golden ")
	}
	name, version, _ := strings.Cut(name, ":")
	if name == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), suggestTimeout)
	defer cancel()
	d, err := a.connect()
	if err != nil {
		return
	}
	if s := cmdline.Nearest(name, list(ctx, d)); s != "" && s != name {
		if version != "" {
			s += ":" + version
		}
		e.Hint = strings.TrimSuffix(fmt.Sprintf("did you mean %s? %s", s, e.Hint), " ")
	}
}

func (a *app) goldenNames(ctx context.Context, d *client.Client) (names []string) {
	goldens, _ := goldensNamed(ctx, d, nil) // without them there is nothing to suggest
	for _, g := range goldens {
		names = append(names, g.Name)
	}
	return names
}

func (a *app) cloneNames(ctx context.Context, d *client.Client) (names []string) {
	clones, _ := clonesWith(ctx, d, nil)
	for _, c := range clones {
		names = append(names, c.Name, c.ID)
	}
	return names
}

// deadClone is what a clone is called whose server has ended, with the reason that is known of it.
func deadClone(c api.Clone) error {
	why := ""
	if c.Reason != "" {
		why = ": " + c.Reason
	}
	return &api.Error{
		Code: api.CodeConflict, Message: fmt.Sprintf("the server of clone %s has ended%s", c.ID, why),
		Hint: fmt.Sprintf("ctrsnap logs %s; ctrsnap rm %s", c.ID, c.ID),
	}
}
