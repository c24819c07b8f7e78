package access

import (
	"testing"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

func golden(owner, group int, mode uint32) snapshot.Golden {
	return snapshot.Golden{Name: "shop", Version: 1, Access: snapshot.Access{Owner: owner, Group: group, Mode: mode}}
}

// TestCaller asks for each caller and object what the caller may.
func TestCaller(t *testing.T) {
	cert := User("cert:ann", certUID) // in no group
	callers := map[string]Caller{
		"nobody":        {},
		"a negative":    User("nobody", -1, 0, 1000),
		"nobody, admin": Caller{Name: "root"}.AsAdmin(),
		"daemon":        Daemon,
		"root":          User("root", 0, 0),
		"admin":         User("admin", 1009, 1009).AsAdmin(),
		"ada":           User("ada", 1000, 1000),
		"bob":           User("bob", 1001, 1001, 27, 1000), // in ada's group
		"eve":           User("eve", 1002, 1002),
		"of root's":     User("operator", 1003, 1003, 0),
		"cert":          cert,
		"other cert":    User("cert:bob", certUID+1),
	}
	everybody := []string{"daemon", "root", "admin", "ada", "bob", "eve", "of root's", "cert", "other cert"}
	admins := []string{"daemon", "root", "admin"}
	and := func(names ...string) []string { return append(append([]string{}, admins...), names...) }
	for what, tt := range map[string]struct {
		may  func(Caller) bool
		want []string
	}{
		"clone of ada":         {func(c Caller) bool { return c.May(1000) }, and("ada")},
		"clone of root":        {func(c Caller) bool { return c.May(0) }, admins},
		"clone of nobody":      {func(c Caller) bool { return c.May(-1) }, admins},
		"clone of cert":        {func(c Caller) bool { return c.May(certUID) }, and("cert")},
		"administration":       {func(c Caller) bool { return c.IsAdmin() }, admins},
		"administration, told": {func(c Caller) bool { return c.CheckAdmin("x") == nil }, admins},
		"being somebody":       {func(c Caller) bool { return c.Known() }, everybody},
		"being somebody, told": {func(c Caller) bool { return c.CheckKnown("x") == nil }, everybody},
		"being root":           {func(c Caller) bool { return c.IsRoot() }, []string{"daemon", "root"}},
		"ada's group":          {func(c Caller) bool { return c.In(1000) }, []string{"ada", "bob"}},
		"root's group":         {func(c Caller) bool { return c.In(0) }, []string{"daemon", "root", "of root's"}},
		"no group":             {func(c Caller) bool { return c.In(snapshot.NoGroup) }, nil},
		"read 0644":            {func(c Caller) bool { return c.MayRead(golden(1000, 1000, 0o644)) }, everybody},
		"read 0640":            {func(c Caller) bool { return c.MayRead(golden(1000, 1000, 0o640)) }, and("ada", "bob")},
		"read 0600":            {func(c Caller) bool { return c.MayRead(golden(1000, 1000, 0o600)) }, and("ada")},
		"read 0604":            {func(c Caller) bool { return c.MayRead(golden(1000, 1000, 0o604)) }, and("ada", "eve", "of root's", "cert", "other cert")},
		"read root's 0640":     {func(c Caller) bool { return c.MayRead(golden(0, 0, 0o640)) }, and("of root's")},
		"read cert's 0660":     {func(c Caller) bool { return c.MayRead(golden(certUID, cert.Group(), 0o660)) }, and("cert")},
		"write 0664":           {func(c Caller) bool { return c.CheckWrite(golden(1000, 1000, 0o664)) == nil }, and("ada", "bob")},
		"write 0646":           {func(c Caller) bool { return c.CheckWrite(golden(1000, 1000, 0o646)) == nil }, and("ada", "eve", "of root's", "cert", "other cert")},
		"write 0666":           {func(c Caller) bool { return c.CheckWrite(golden(1000, 1000, 0o666)) == nil }, everybody},
		"write cert's 0660":    {func(c Caller) bool { return c.CheckWrite(golden(certUID, cert.Group(), 0o660)) == nil }, and("cert")},
		"write cert's 0664":    {func(c Caller) bool { return c.CheckWrite(golden(certUID, cert.Group(), 0o664)) == nil }, and("cert")},
	} {
		may := map[string]bool{}
		for _, name := range tt.want {
			may[name] = true
		}
		for name, c := range callers {
			if got := tt.may(c); got != may[name] {
				t.Errorf("%s: %s: %v, want %v", what, name, got, may[name])
			}
		}
	}
}

// TestErrors: what a caller may not read is not there for them, what they may only read is denied.
func TestErrors(t *testing.T) {
	eve := User("eve", 1002, 1002)
	g := golden(1000, 1000, 0o644)
	if err := eve.CheckWrite(g); !errdefs.IsPermissionDenied(err) {
		t.Errorf("write what is read: %v", err)
	}
	if _, err := eve.Readable(g.Ref(), g, nil); err != nil {
		t.Errorf("read: %v", err)
	}
	if got, err := (Caller{}).Readable(g.Ref(), g, nil); !errdefs.IsNotFound(err) || got.Name != "" {
		t.Errorf("read by nobody: %v, %v", got, err)
	}
	g.Access.Mode = 0o640
	if err := eve.CheckWrite(g); !errdefs.IsNotFound(err) {
		t.Errorf("write what is not read: %v", err)
	}
	if got, err := eve.Readable(g.Ref(), g, nil); !errdefs.IsNotFound(err) || got.Name != "" {
		t.Errorf("read: %v, %v", got, err)
	}
	if _, err := Daemon.Readable(g.Ref(), g, errdefs.ErrUnavailable); !errdefs.IsUnavailable(err) {
		t.Errorf("an error of the storage: %v", err)
	}
	for name, err := range map[string]error{"admin": eve.CheckAdmin("x"), "known": Caller{}.CheckKnown("x")} {
		if !errdefs.IsPermissionDenied(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestCertCaller: whoever comes by a certificate is in no group.
func TestCertCaller(t *testing.T) {
	u, err := OpenCertUsers(t.TempDir() + "/users")
	if err != nil {
		t.Fatal(err)
	}
	c, err := u.Caller("ann")
	if err != nil || c.UID() != certUID || c.Name != "cert:ann" || c.IsAdmin() || c.Group() != snapshot.NoGroup || !IsCertUID(c.UID()) {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := u.Caller("a b"); !errdefs.IsInvalidArgument(err) || c.Known() {
		t.Errorf("%+v, %v", c, err)
	}
}

// TestTrusts: nobody's golden is taken for the caller's own that another one could have put there.
func TestTrusts(t *testing.T) {
	const trusted = 50
	alice, outside, root := User("alice", 1000, 1000, trusted), User("bob", 1001, 1001), User("", 0)
	for name, c := range map[string]struct {
		who  Caller
		of   snapshot.Access
		want bool
	}{
		"her own":                          {alice, snapshot.Access{Owner: 1000, Mode: 0o666}, true},
		"root's":                           {outside, snapshot.Access{Owner: 0, Mode: 0o644}, true},
		"another's":                        {outside, snapshot.Access{Owner: 1000, Mode: 0o644}, false},
		"another's, writable":              {outside, snapshot.Access{Owner: 1000, Group: 1001, Mode: 0o666}, false},
		"a member's":                       {alice, snapshot.Access{Owner: 1002, Group: trusted, Mode: 0o664}, true},
		"a member's, writable by others":   {alice, snapshot.Access{Owner: 1002, Group: trusted, Mode: 0o666}, false},
		"a member's with another group":    {alice, snapshot.Access{Owner: 1002, Group: 1002, Mode: 0o664}, false},
		"a member's, by whom is no member": {outside, snapshot.Access{Owner: 1000, Group: trusted, Mode: 0o664}, false},
		"another's, by root":               {root, snapshot.Access{Owner: 1000, Mode: 0o644}, false},
		"root's, by nobody":                {Caller{}, snapshot.Access{Owner: 0, Mode: 0o644}, false},
	} {
		if got := c.who.Trusts(c.of, trusted); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
	if alice.Trusts(snapshot.Access{Owner: 1002, Group: 0, Mode: 0o644}, 0) {
		t.Error("root's group is trusted where none is named")
	}
}
