package shim

import (
	events "github.com/containerd/containerd/api/events"
	"github.com/containerd/log"
)

// watchMemory tells when the container runs out of memory, as long as it runs.
func (s *Service) watchMemory(c *container) {
	err := c.cgroup.WatchOOM(c.init.exited, func() {
		s.send(&events.TaskOOM{ContainerID: c.id})
	})
	if err != nil && !c.init.hasEnded() {
		log.G(s.ctx).WithError(err).WithField("id", c.id).Warn("watch memory")
	}
}
