package build

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
)

// TestReach: a build reaches what is beyond this host, and no address of it; in the host's network, where an administrator wants that, run
// the host's own programs only.
func TestReach(t *testing.T) {
	for name, tt := range map[string]struct {
		addr, prefix, image string
		host, admin         bool
		ok                  bool
	}{
		"another host":                       {addr: "192.0.2.9", ok: true},
		"loopback":                           {addr: "127.0.0.9"},
		"loopback of version 6":              {addr: "::1"},
		"loopback, mapped":                   {addr: "::ffff:127.0.0.1"},
		"any address":                        {addr: "0.0.0.0"},
		"metadata":                           {addr: "169.254.169.254"},
		"link-local":                         {addr: "fe80::1"},
		"multicast":                          {addr: "224.0.0.1"},
		"loopback in the host's network":     {addr: "127.0.0.1", host: true, ok: true},
		"an image's programs there":          {addr: "192.0.2.9", host: true, image: "x"},
		"an administrator's image there":     {addr: "192.0.2.9", host: true, image: "x", admin: true, ok: true},
		"an administrator's loopback beyond": {addr: "127.0.0.1", admin: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.HostNetwork = tt.host
			var got []string
			w.programs["dump"] = func(f fakeIO) int { got = append(got, f.c.NetNS); return 0 }
			w.engine = func(ctx context.Context, wb runtime.Workbench, _ runtime.Sources) (b runtime.Built, err error) {
				err = wb.Run(ctx, runtime.Process{Args: []string{"dump"}}, runtime.RunOpts{Reach: netip.MustParseAddr(tt.addr)})
				return b, errors.Join(err, wb.Run(ctx, runtime.Process{Args: []string{"dump"}}, runtime.RunOpts{}))
			}
			r, who := shop(), ada
			r.Image = tt.image
			if tt.admin {
				who = ada.AsAdmin()
			}
			_, _, err := w.Build(t.Context(), who, r.BuildRequest, r.next, r.event)
			if tt.ok && err != nil || !tt.ok && !errdefs.IsPermissionDenied(err) {
				t.Errorf("got %v", err)
			}
			want := "/netns/" + r.events[0].BuildID
			if tt.host {
				want = runtime.HostNetwork
			}
			if tt.ok && (len(got) != 2 || got[0] != want || got[1] != "") || !tt.ok && (len(got) != 1 || got[0] != "") {
				t.Errorf("ran in %q", got)
			}
		})
	}
}

// TestReachClone: a build reaches a clone of its caller's as that one's peers do, and others' not at all.
func TestReachClone(t *testing.T) {
	own, others, beyond := netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("10.0.0.8"), netip.MustParseAddr("192.0.2.9")
	for addr, want := range map[netip.Addr][]network.Options{own: {{Lease: "l1"}, {}}, beyond: {{Egress: true}, {}}, others: nil} {
		w := newWorld(t)
		w.Peers = func(_ context.Context, caller access.Caller, to netip.Addr) (string, error) {
			switch {
			case to == own && caller.UID() == ada.UID():
				return "l1", nil
			case to == beyond:
				return "", nil
			}
			return "", errdefs.ErrPermissionDenied
		}
		w.programs["dump"] = func(fakeIO) int { return 0 }
		w.engine = func(ctx context.Context, wb runtime.Workbench, _ runtime.Sources) (b runtime.Built, err error) {
			return b, wb.Run(ctx, runtime.Process{Args: []string{"dump"}}, runtime.RunOpts{Reach: addr})
		}
		_, _, err := w.run(t.Context(), shop())
		if errdefs.IsPermissionDenied(err) != (addr == others) || !slices.Equal(w.assigned, want) {
			t.Errorf("%s: assigned %+v, %v", addr, w.assigned, err)
		}
		w.checkNothingLeft()
	}
}
