package described

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/engine/dial"
	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/foreign"
)

// fetch dumps a live database to a file among the sources: from then on it is a dump.
func (b *build) fetch(ctx context.Context) error {
	f, err := b.live(b.src.URL)
	if err != nil {
		return err
	}
	addr, err := dial.Resolve(ctx, f.URLHost)
	if err != nil {
		return sourceError(f.URLHost, err)
	}
	f.URLHost = addr.String()
	if b.src.Database == "" && b.e.d.Build.Database && b.src.Parent == nil {
		b.st.DB = f.URLDatabase
	}
	b.wb.Step("dump " + f.URLHost)
	sources, err := os.OpenRoot(b.wb.SourceDir())
	if err != nil {
		return err
	}
	defer func() { _ = sources.Close() }()
	if err := sources.MkdirAll("dump", 0o755); err != nil {
		return err
	}
	out, err := foreign.Create(sources, "dump/"+liveName, 0o644)
	if err != nil {
		return err
	}
	p, in, err := b.command(f, b.e.d.Build.URL)
	if err == nil {
		err = b.wb.Run(ctx, p, runtime.RunOpts{Reach: addr, Stdio: runtime.Stdio{Stdin: strings.NewReader(in), Stdout: out}})
	}
	if err := errors.Join(err, out.Close()); err != nil {
		return sourceError(f.URLHost, err)
	}
	b.src.Dump = liveName
	return nil
}

// live reads the URL of a live database. Its errors do not show it.
func (b *build) live(text string) (Fields, error) {
	f := b.st.fields()
	schemes := b.e.d.Build.URLSchemes
	u, err := url.Parse(text)
	if err != nil || !slices.Contains(schemes, u.Scheme) || u.Hostname() == "" {
		return f, snapshot.WithHint(fmt.Errorf("url of live database: no URL of %s: %w", b.e.d.Name, errdefs.ErrInvalidArgument),
			"write "+schemes[0]+"://USER:PASSWORD@HOST:PORT/DATABASE")
	}
	f.URLHost, f.URLPort, f.URLDatabase = u.Hostname(), u.Port(), strings.TrimPrefix(u.Path, "/")
	if f.URLPort == "" {
		f.URLPort = f.Port
	}
	if u.User != nil {
		f.URLUser = u.User.Username()
		f.URLPassword, _ = u.User.Password()
	}
	return f, nil
}
