package build

import (
	"context"
	"fmt"
	"os/user"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/event"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// find returns a golden that the caller may know of.
func (b *Builder) find(ctx context.Context, caller access.Caller, r snapshot.Ref) (snapshot.Golden, error) {
	g, err := b.Store.Golden(ctx, r)
	return caller.Readable(r, g, err)
}

// writable returns a golden that the caller may change; with version 0 one of a name.
func (b *Builder) writable(ctx context.Context, caller access.Caller, r snapshot.Ref) (g snapshot.Golden, err error) {
	all, err := b.goldens(ctx, caller)
	if err != nil {
		return g, err
	}
	i := slices.IndexFunc(all, func(g snapshot.Golden) bool { return g.Name == r.Name && (r.Version == 0 || g.Version == r.Version) })
	if i < 0 {
		return g, snapshot.NoGolden(r)
	}
	return all[i], caller.CheckWrite(all[i])
}

// goldens are those that the caller may know of.
func (b *Builder) goldens(ctx context.Context, caller access.Caller) ([]snapshot.Golden, error) {
	all, err := b.Store.Goldens(ctx)
	return slices.DeleteFunc(all, func(g snapshot.Golden) bool { return !caller.MayRead(g) }), err
}

// mayBuild says whether the caller may build the next version of a name. That a name is
// taken cannot be kept from those who want it themselves.
func (b *Builder) mayBuild(ctx context.Context, caller access.Caller, name string) error {
	if err := caller.CheckKnown("build a golden"); err != nil {
		return err
	}
	all, err := b.Store.Goldens(ctx)
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

// access is that of a name that the build makes.
func (j *job) access() (snapshot.Access, error) {
	a := snapshot.Access{Owner: j.caller.UID(), Group: j.caller.Group(), Mode: j.Mode}
	if j.req.Mode == "" {
		return a, nil
	}
	var err error
	a.Mode, err = snapshot.ParseMode(j.req.Mode)
	return a, err
}

// SetAccess says who may do what with the goldens of a name. The owner gives the
// group, one of their own, and the mode; the rest is for administrators.
func (b *Builder) SetAccess(ctx context.Context, caller access.Caller, name string, req api.AccessRequest) (api.Golden, error) {
	if err := snapshot.ValidateName(name); err != nil {
		return api.Golden{}, err
	}
	b.naming.Lock()
	defer b.naming.Unlock()
	g, err := b.find(ctx, caller, snapshot.Ref{Name: name})
	if err != nil {
		return api.Golden{}, fmt.Errorf("set access of golden %s: %w", name, err)
	}
	a, err := b.changed(caller, g.Access, req)
	if err == nil {
		err = b.Store.SetAccess(ctx, name, a)
	}
	if err != nil {
		return api.Golden{}, fmt.Errorf("set access of golden %s: %w", name, err)
	}
	b.Logger.InfoContext(ctx, "golden access set", "golden", name, "access", a.String())
	g.Access = a
	b.emit(caller, api.EventGoldenChanged, g, "access "+a.String())
	return b.Get(ctx, caller, name)
}

// changed returns a with what a request wants, if the caller may have it so.
func (b *Builder) changed(who access.Caller, a snapshot.Access, req api.AccessRequest) (snapshot.Access, error) {
	if !who.May(a.Owner) {
		return a, fmt.Errorf("it is somebody else's: %w", errdefs.ErrPermissionDenied)
	}
	var err error
	if req.Mode != "" {
		if a.Mode, err = snapshot.ParseMode(req.Mode); err != nil {
			return a, err
		}
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
		a.Owner, err = b.userID(req.Owner)
	}
	return a, err
}

func (b *Builder) userID(name string) (int, error) {
	if b.Users != nil {
		if id, ok, err := b.Users.ID(name); ok {
			return id, err
		}
	}
	if id, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(id), nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return 0, invalid("no user %.64q", name)
	}
	return strconv.Atoi(u.Uid)
}

func groupID(name string) (int, error) {
	if id, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(id), nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, invalid("no group %.64q", name)
	}
	return strconv.Atoi(g.Gid)
}

// userName and groupName return names for people, or the numbers.
func (b *Builder) userName(id int) string {
	if b.Users != nil {
		if name, ok := b.Users.Name(id); ok {
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

// MayRemove says why the caller may not remove a golden.
func (b *Builder) MayRemove(ctx context.Context, caller access.Caller, r snapshot.Ref) error {
	if _, err := b.writable(ctx, caller, r); err != nil {
		return fmt.Errorf("remove golden %s: %w", r, err)
	}
	return nil
}

// emit has the world know what a caller did to a golden.
func (b *Builder) emit(by access.Caller, t api.EventType, g snapshot.Golden, reason string) {
	b.Events.Emit(event.Event{
		Event:  api.Event{Type: t, Golden: g.Ref().String(), Owner: b.userName(g.Access.Owner), By: by.Name, Reason: reason},
		Access: &g.Access,
	})
}
