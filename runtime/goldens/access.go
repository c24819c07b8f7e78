package goldens

import (
	"context"
	"fmt"
	"os/user"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// MayAdd says why the caller may not add a version to a name. That a name is
// taken cannot be kept from those who want it themselves.
func (g *Goldens) MayAdd(ctx context.Context, caller access.Caller, name string) error {
	if err := caller.CheckKnown("build a golden"); err != nil {
		return err
	}
	all, err := g.opts.Store.Goldens(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(g snapshot.Golden) bool { return g.Name == name })
	if i < 0 || caller.CheckWrite(all[i]) == nil {
		return nil
	}
	return snapshot.WithHint(
		fmt.Errorf("golden %s is somebody else's: %w", name, errdefs.ErrPermissionDenied),
		"choose another name, or have its owner give you the right to build")
}

// Add adds a version to a name, if the caller may still: whose the name is may have changed since it was begun. commit
// makes it.
func (g *Goldens) Add(ctx context.Context, caller access.Caller, name string, commit func() (snapshot.Golden, error)) (added snapshot.Golden, err error) {
	g.naming.Lock()
	if err = g.MayAdd(ctx, caller, name); err == nil {
		added, err = commit()
	}
	g.naming.Unlock()
	if err == nil {
		g.changed(ctx, caller, api.EventGoldenBuilt, added, "")
	}
	return added, err
}

// SetAccess says who may do what with the goldens of a name. The owner gives the
// group, one of their own, and the mode; the rest is for administrators.
func (g *Goldens) SetAccess(ctx context.Context, caller access.Caller, name string, req api.AccessRequest) (api.Golden, error) {
	if err := snapshot.ValidateName(name); err != nil {
		return api.Golden{}, err
	}
	g.naming.Lock()
	defer g.naming.Unlock()
	found, err := g.find(ctx, caller, snapshot.Ref{Name: name})
	if err == nil {
		found.Access, err = g.wanted(caller, found.Access, req)
	}
	if err == nil {
		err = g.opts.Store.SetAccess(ctx, name, found.Access)
	}
	if err != nil {
		return api.Golden{}, fmt.Errorf("set access of golden %s: %w", name, err)
	}
	a := found.Access.String()
	g.opts.Log.InfoContext(ctx, "golden access set", "golden", name, "access", a)
	g.changed(ctx, caller, api.EventGoldenChanged, found, "access "+a)
	return g.Get(ctx, caller, name)
}

// wanted returns a with what a request wants, if the caller may have it so.
func (g *Goldens) wanted(who access.Caller, a snapshot.Access, req api.AccessRequest) (snapshot.Access, error) {
	if !who.May(a.Owner) {
		return a, fmt.Errorf("it is somebody else's: %w", errdefs.ErrPermissionDenied)
	}
	var err error
	if req.Mode != "" {
		if a.Mode, err = snapshot.ParseMode(req.Mode); err != nil {
			return a, err
		}
	}
	if req.Protected != nil {
		a.Protected = *req.Protected
	}
	if req.Group != "" {
		if a.Group, err = groupID(req.Group); err != nil {
			return a, err
		}
		if !who.IsAdmin() && !who.In(a.Group) {
			return a, fmt.Errorf("you are not in group %.64q: %w", req.Group, errdefs.ErrPermissionDenied)
		}
	}
	if req.Owner != "" {
		if !who.IsAdmin() {
			return a, fmt.Errorf("the owner is given by administrators: %w", errdefs.ErrPermissionDenied)
		}
		a.Owner, err = g.userID(req.Owner)
	}
	return a, err
}

func (g *Goldens) userID(name string) (int, error) {
	if g.opts.Users != nil {
		if id, ok, err := g.opts.Users.ID(name); ok {
			return id, err
		}
	}
	if id, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(id), nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return 0, fmt.Errorf("no user %.64q: %w", name, errdefs.ErrInvalidArgument)
	}
	return strconv.Atoi(u.Uid)
}

func groupID(name string) (int, error) {
	if id, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(id), nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, fmt.Errorf("no group %.64q: %w", name, errdefs.ErrInvalidArgument)
	}
	return strconv.Atoi(g.Gid)
}

// userName and groupName return names for people, or the numbers.
func (g *Goldens) userName(id int) string {
	if g.opts.Users != nil {
		if name, ok := g.opts.Users.Name(id); ok {
			return name
		}
	}
	text := strconv.Itoa(id)
	if u, err := user.LookupId(text); err == nil {
		return u.Username
	}
	return text
}

func groupName(id int) string {
	if id == snapshot.NoGroup {
		return ""
	}
	text := strconv.Itoa(id)
	if g, err := user.LookupGroupId(text); err == nil {
		return g.Name
	}
	return text
}
