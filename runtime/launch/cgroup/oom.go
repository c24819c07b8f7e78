package cgroup

import (
	"os"

	"golang.org/x/sys/unix"
)

// WatchOOM calls fn whenever the group runs out of memory, until done is closed.
func (g *Group) WatchOOM(done <-chan struct{}, fn func()) error {
	if g.host.unified {
		return g.watch2(done, fn)
	}
	c, err := g.load1()
	if err != nil {
		return err
	}
	fd, err := c.OOMEventFD()
	if err != nil {
		return err
	}
	_ = unix.SetNonblock(int(fd), true) // else it takes a thread to wait
	f := os.NewFile(fd, "oom events")
	defer f.Close()
	go func() {
		<-done
		f.Close()
	}()
	for count := make([]byte, 8); ; {
		if _, err := f.Read(count); err != nil {
			return nil // closed
		}
		fn()
	}
}

func (g *Group) watch2(done <-chan struct{}, fn func()) error {
	m, err := g.load2()
	if err != nil {
		return err
	}
	events, errs := m.EventChan()
	for seen := uint64(0); ; {
		select {
		case e := <-events:
			if e.OOMKill > seen {
				seen = e.OOMKill
				fn()
			}
		case err := <-errs:
			return err
		case <-done:
			return nil
		}
	}
}
