package described

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/engine/dial"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// apply runs what refines the data: scripts, commands of the caller, masks.
func (b *build) apply(ctx context.Context) error {
	if err := b.chooseDatabase(ctx); err != nil {
		return err
	}
	if err := b.login(ctx); err != nil {
		return err
	}
	if err := b.scripts(ctx, "init", b.src.Init); err != nil {
		return err
	}
	if len(b.src.Exec) > 0 {
		c, err := b.st.connection(b.svc.Endpoint())
		if err != nil {
			return err
		}
		env := c.Env["tcp"]
		if env == nil {
			env = map[string]string{}
		}
		env["DATABASE_URL"] = c.URLs["tcp"]
		for _, command := range b.src.Exec {
			b.wb.Step("exec " + command)
			if err := b.wb.Host(ctx, command, env); err != nil {
				return sourceError(command, err)
			}
		}
	}
	return b.scripts(ctx, "mask", b.src.Mask)
}

// login makes the login, and tries it as a client of a clone does.
func (b *build) login(ctx context.Context) error {
	if err := b.steps(ctx, b.e.d.Build.Login); err != nil {
		if b.ends(ctx) {
			return b.diedError(ctx)
		}
		return fmt.Errorf("make login: %w", err)
	}
	if err := b.e.ask(ctx, b.st, b.endpoint()); err != nil {
		return snapshot.WithHint(fmt.Errorf("log in as %q: %w", b.st.User, err), "--user, --password and --database choose others")
	}
	return nil
}

// chooseDatabase says which database clones are handed out with.
func (b *build) chooseDatabase(ctx context.Context) error {
	if !b.e.d.Build.Database || b.src.Parent != nil && b.st.DB != "" {
		return nil
	}
	if b.src.Database == "" && b.given("database") == "" && b.src.URL == "" && b.loaded && len(b.e.d.Build.Databases.Args) > 0 {
		out := dial.Answer{Limit: maxAnswer}
		if err := b.step(ctx, b.st.fields(), b.e.d.Build.Databases, runtime.Stdio{Stdout: &out}); err != nil {
			return fmt.Errorf("list databases: %w", err)
		}
		if names := strings.Fields(out.String()); len(names) == 1 {
			b.st.DB = names[0]
		}
	}
	if b.st.DB == "" {
		b.st.DB = b.database()
	}
	return nil
}

func (b *build) database() string {
	if b.src.Database != "" {
		return b.src.Database
	}
	if name := b.given("database"); name != "" {
		return name
	}
	return b.src.Golden
}

// given is what a variable of the build says, as official images know them.
func (b *build) given(what string) string {
	for _, k := range slices.Sorted(maps.Keys(b.e.d.Build.Env)) {
		if b.e.d.Build.Env[k] == what && b.src.Env[k] != "" {
			return b.src.Env[k]
		}
	}
	return ""
}
