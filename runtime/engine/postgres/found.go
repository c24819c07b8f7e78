package postgres

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/engine/rootfs"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// rules let a clone's user in whatever the golden's own rules say. The socket
// is guarded by the mode of its directory. md5 takes SCRAM verifiers as well,
// see https://www.postgresql.org/docs/current/auth-password.html.
const rules = `# Written by ctrsnap: who may connect to a clone.
local all all     trust
host  all all all md5
`

// found makes the cluster that the data go into and starts its server: the
// parent's, a copy of a data directory, the one that an official image makes
// of itself, or a new one.
func (b *build) found(ctx context.Context) error {
	switch {
	case b.src.Parent != nil:
		return b.foundParent(ctx)
	case b.src.Dir:
		return b.foundDir(ctx)
	}
	if err := rootfs.Edit(ctx, b.wb.Root, func(r *rootfs.Root) error { return b.detect(r, 0) }); err != nil {
		return err
	}
	b.st.Admin = b.src.User
	b.st.User, b.st.Passwd = b.src.User, b.src.Password
	if b.st.Passwd == "" {
		b.st.Passwd = newPassword()
	}
	if official(b.src.Base.Config) {
		return b.foundOfficial(ctx)
	}
	return b.foundNew(ctx)
}

// foundParent goes on where another golden ended.
func (b *build) foundParent(ctx context.Context) error {
	var err error
	if b.st, err = stateOf(*b.src.Parent); err != nil {
		return err
	}
	b.cluster = true
	if err := rootfs.Edit(ctx, b.wb.Root, func(r *rootfs.Root) error {
		b.findSocketDir(r)
		return b.writeCertificate(r) // the parent may be of a release without one
	}); err != nil {
		return err
	}
	b.wb.Step("start server")
	return b.start(ctx)
}

// foundNew makes an empty cluster with initdb.
func (b *build) foundNew(ctx context.Context) error {
	b.defaultUser("postgres")
	b.wb.Step("initdb")
	if err := b.initdb(ctx, "C.UTF-8"); err != nil {
		return err
	}
	if err := b.start(ctx); err != nil {
		return err
	}
	_, err := b.query(ctx, "postgres", "ALTER ROLE "+ident(b.st.Admin)+" PASSWORD "+literal(b.st.Passwd))
	if err != nil {
		return fmt.Errorf("set password of %s: %w", b.st.Admin, err)
	}
	return nil
}

// defaultUser names the superuser that is made with the cluster.
func (b *build) defaultUser(name string) {
	if b.st.Admin == "" {
		b.st.Admin = b.src.Env["POSTGRES_USER"]
	}
	if b.st.Admin == "" {
		b.st.Admin = name
	}
	b.st.User = b.st.Admin
}

// initdb runs initdb; where the C library does not know the locale, with C.
func (b *build) initdb(ctx context.Context, locale string) error {
	args := []string{
		"initdb", "-D", b.st.DataDir, "-U", b.st.Admin, "--no-sync", "--encoding=UTF8", "--locale=" + locale,
		"--auth-local=trust", "--auth-host=scram-sha-256",
	}
	if major(b.st.Version) >= 18 {
		args = append(args, "--no-data-checksums") // the default before 18; costs a clone CPU time
	}
	args = append(args, strings.Fields(b.src.Env["POSTGRES_INITDB_ARGS"])...)
	err := b.wb.Run(ctx, b.st.process(args, "LC_ALL=C"), runtime.RunOpts{})
	var exit *runtime.ExitError
	if locale != "C" && errors.As(err, &exit) && strings.Contains(exit.Output, "invalid locale") {
		return b.initdb(ctx, "C")
	}
	if err != nil {
		return fmt.Errorf("make database cluster: %w", err)
	}
	return nil
}

// official says whether an image follows the conventions of the official
// postgres image, see https://github.com/docker-library/docs/tree/master/postgres.
func official(c snapshot.ImageConfig) bool {
	return envOf(c.Env, "PGDATA") != "" && slices.ContainsFunc(c.Entrypoint, func(arg string) bool {
		return path.Base(arg) == "docker-entrypoint.sh"
	})
}

// foundOfficial starts the image as its users do: the entrypoint makes the
// cluster, runs /docker-entrypoint-initdb.d of the image, and becomes the server.
func (b *build) foundOfficial(ctx context.Context) error {
	b.defaultUser("postgres")
	if pw := b.src.Env["POSTGRES_PASSWORD"]; b.src.Password == "" && pw != "" {
		b.st.Passwd = pw
	}
	b.st.DB = b.database()
	vars := map[string]string{}
	for k, v := range b.src.Env {
		vars[k] = v
	}
	vars["POSTGRES_USER"], vars["POSTGRES_PASSWORD"], vars["POSTGRES_DB"] = b.st.Admin, b.st.Passwd, b.st.DB
	vars["POSTGRES_INITDB_ARGS"] = strings.TrimSpace(vars["POSTGRES_INITDB_ARGS"] + " --no-sync")

	settings := b.settings()
	// The entrypoint's own scripts look for the socket where it is by default. It makes the directory.
	settings["unix_socket_directories"] = imageSocketDir + "," + runtime.SocketDir
	p := runtime.Process{
		Args: append(append(slices.Clone(b.src.Base.Config.Entrypoint), "postgres"), settingArgs(settings)...),
		Env:  overlayEnv(b.src.Base.Config.Env, vars),
		Cwd:  b.src.Base.Config.WorkingDir,
	}
	b.wb.Step("docker-entrypoint.sh")
	return b.serve(ctx, p, pidFile.readyTCP)
}

// overlayEnv returns env with vars over it.
func overlayEnv(env []string, vars map[string]string) []string {
	all := map[string]string{}
	for _, kv := range env {
		k, v, _ := strings.Cut(kv, "=")
		all[k] = v
	}
	var keys []string
	for k, v := range vars {
		all[k] = v
	}
	for k := range all {
		keys = append(keys, k)
	}
	return joinEnv(keys, all)
}

func envOf(env []string, key string) string {
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, key+"="); ok {
			return v
		}
	}
	return ""
}

// database is the name of the database that clones are handed out with,
// where the data do not bring one.
func (b *build) database() string {
	for _, name := range []string{b.src.Database, b.src.Env["POSTGRES_DB"], b.src.Golden} {
		if name != "" {
			return name
		}
	}
	return "postgres"
}

// errNoServer says that the base has no PostgreSQL of the version wanted.
func errNoServer(want int, have []string) error {
	what := "postgres and initdb"
	if want != 0 {
		what = fmt.Sprintf("PostgreSQL %d", want)
	}
	err := fmt.Errorf("find %s in the base: %w", what, errdefs.ErrNotFound)
	if len(have) > 0 {
		err = fmt.Errorf("find %s in the base, which has %s: %w", what, strings.Join(have, ", "), errdefs.ErrNotFound)
	}
	return snapshot.WithHint(err, "give a base that has it: --from-host=PREFIX, --image or --image-archive")
}
