package quota

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"pgregory.net/rapid"
)

// TestBounds: each bound is named when it is exceeded, the user's after that of all, and
// administrators have none of their own.
func TestBounds(t *testing.T) {
	const mib = 1 << 20
	for name, c := range map[string]struct {
		user, all Bounds
		r         Request
		says      string // "" is room
	}{
		"none":            {r: Request{Clones: 1000}},
		"fits":            {user: Bounds{Clones: 3}, all: Bounds{Clones: 4}, r: Request{Clones: 1}},
		"user's":          {user: Bounds{Clones: 2}, all: Bounds{Clones: 9}, r: Request{Clones: 2}, says: "2 clones of each user"},
		"administrator's": {user: Bounds{Clones: 2}, all: Bounds{Clones: 9}, r: Request{Clones: 2, Exempt: true}},
		"all's":           {user: Bounds{Clones: 3}, all: Bounds{Clones: 3}, r: Request{Clones: 2, Exempt: true}, says: "3 clones in all"},
		"memory":          {user: Bounds{Memory: 900 * mib}, r: Request{Clones: 2, Memory: 300 * mib}, says: "900 MiB of memory of each user"},
		"memory fits":     {user: Bounds{Memory: 912 * mib}, r: Request{Clones: 2, Memory: 300 * mib}},
		"memory unknown":  {all: Bounds{Memory: 375 * mib}, r: Request{Clones: 1}, says: "375 MiB of memory in all"},
		"disk":            {all: Bounds{Disk: 499 * mib}, r: Request{Clones: 1}, says: "499 MiB of disk in all"},
	} {
		b := New(c.user, c.all, nil)
		b.Add("known", 1, 0)
		b.Measured("known", 312*mib, 500*mib)
		b.Add("other", 1, 0)
		b.Measured("other", 0, 0)
		b.Remove("other")
		b.Add("limited", 2, 1)
		b.Measured("limited", 1000*mib, 0) // its limit counts
		b.Measured("gone", 1000*mib, 1000*mib)
		r := c.r
		r.UID = 1
		release, err := b.Admit(t.Context(), r)
		switch {
		case c.says == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.says != "" && (!errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "no room: "+c.says+" is all there may be")):
			t.Errorf("%s: %v, want %s", name, err, c.says)
		case err == nil:
			release()
		}
	}
}

// TestWait: who waits is let in as others leave, the user with the fewest clones first, then
// who came first. A wait ends with its time or its context, and then holds nobody up.
func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(Bounds{}, Bounds{Clones: 4}, nil)
		for _, id := range []string{"a", "b", "c"} {
			b.Add(id, 1, 0)
		}
		b.Add("d", 2, 0)
		begun := time.Now()
		if _, err := b.Admit(t.Context(), Request{UID: 3, Clones: 5, Wait: time.Hour}); !errdefs.IsResourceExhausted(err) || time.Since(begun) != 0 {
			t.Errorf("what never fits: %v", err)
		}
		if _, err := b.Admit(t.Context(), Request{UID: 3, Clones: 1, Wait: time.Minute}); !errdefs.IsResourceExhausted(err) || time.Since(begun) != time.Minute {
			t.Errorf("after a minute: %v", err)
		}
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, nil)
		defer cancel()
		if _, err := b.Admit(ctx, Request{UID: 3, Clones: 1, Wait: time.Minute}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a caller that left: %v", err)
		}
		var mu sync.Mutex
		var order []int
		var releases []func()
		var wg sync.WaitGroup
		for _, uid := range []int{1, 2, 3, 3} {
			wg.Go(func() {
				release, err := b.Admit(t.Context(), Request{UID: uid, Clones: 1, Wait: time.Hour})
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				order, releases = append(order, uid), append(releases, release)
			})
			synctest.Wait()
		}
		if n := b.Waiting(); n != 4 {
			t.Errorf("%d wait", n)
		}
		for _, id := range []string{"a", "d", "b", "c"} { // 3 has none; then 2 has none; then all have one, and 1 came first
			b.Remove(id)
			synctest.Wait()
		}
		wg.Wait()
		if fmt.Sprint(order) != "[3 2 1 3]" {
			t.Errorf("let in: %v", order)
		}
		for _, release := range releases {
			release()
		}
		if b.Waiting() != 0 || b.total != (share{}) || len(b.taken)+len(b.clones) != 0 {
			t.Errorf("left: %+v", b)
		}
	})
}

// TestMeasured: a clone that uses less lets others in, too.
func TestMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(Bounds{}, Bounds{Memory: 1 << 30}, nil)
		b.Add("a", 1, 0)
		b.Measured("a", 1<<30, 0)
		done := make(chan error, 1)
		go func() {
			_, err := b.Admit(t.Context(), Request{UID: 2, Clones: 1, Wait: time.Hour})
			done <- err
		}()
		synctest.Wait()
		b.Measured("a", 1<<20, 0)
		synctest.Wait()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		default:
			t.Error("it waits still")
			b.Remove("a")
			<-done
		}
	})
}

// TestSums holds the sums to what the clones and requests that there are add up to, whatever
// was added, measured and removed before.
func TestSums(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := New(Bounds{Clones: 5, Memory: 1 << 30}, Bounds{Clones: 8, Disk: 1 << 30}, nil)
		var releases []func()
		var given []share
		id := rapid.Custom(func(t *rapid.T) string { return fmt.Sprint("c", rapid.IntRange(0, 5).Draw(t, "id")) })
		bytes := rapid.Int64Range(0, 1<<29)
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				b.Add(id.Draw(t, "id"), rapid.IntRange(1, 3).Draw(t, "uid"), bytes.Draw(t, "limit"))
			},
			"measured": func(t *rapid.T) {
				b.Measured(id.Draw(t, "id"), bytes.Draw(t, "memory"), bytes.Draw(t, "disk"))
			},
			"remove": func(t *rapid.T) { b.Remove(id.Draw(t, "id")) },
			"admit": func(t *rapid.T) {
				r := Request{UID: rapid.IntRange(1, 3).Draw(t, "uid"), Clones: rapid.IntRange(1, 3).Draw(t, "clones"), Exempt: rapid.Bool().Draw(t, "exempt")}
				before := b.total
				release, err := b.Admit(context.Background(), r)
				if err != nil {
					return
				}
				if s := b.total; s.clones > 8 || !r.Exempt && b.taken[r.UID].clones > 5 {
					t.Fatalf("%+v was let in: %+v", r, s)
				}
				releases, given = append(releases, release), append(given, b.total.minus(before))
			},
			"release": func(t *rapid.T) {
				if len(releases) > 0 {
					releases[0]()
					releases, given = releases[1:], given[1:]
				}
			},
			"": func(t *rapid.T) {
				var want, users share
				for _, e := range b.clones {
					want = want.plus(e.share)
				}
				for _, s := range given {
					want = want.plus(s)
				}
				for _, s := range b.taken {
					users = users.plus(s)
				}
				if b.total != want || users != want {
					t.Fatalf("%+v in all, %+v of users, want %+v", b.total, users, want)
				}
			},
		})
	})
}

// TestPayer: the ids of one user have that user's bounds together.
func TestPayer(t *testing.T) {
	b := New(Bounds{Clones: 2}, Bounds{}, func(uid int) int {
		if uid >= 100000 {
			return 1000
		}
		return uid
	})
	b.Add("a", 100001, 0)
	release, err := b.Admit(t.Context(), Request{UID: 1000, Clones: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if _, err := b.Admit(t.Context(), Request{UID: 100002, Clones: 1}); !errdefs.IsResourceExhausted(err) {
		t.Errorf("another id of the same user: %v", err)
	}
	if err := b.Fits(100003, 3, 0); err == nil {
		t.Error("a pool of three fits")
	}
	b.Remove("a")
	if release, err := b.Admit(t.Context(), Request{UID: 100002, Clones: 1}); err != nil {
		t.Error(err)
	} else {
		release()
	}
}
