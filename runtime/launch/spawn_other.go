//go:build !amd64

package launch

import "golang.org/x/sys/unix"

const canSpawn = false

func (p *program) shared(*cloneArgs) {}

func forkShared(args *cloneArgs, calls []call, status uintptr) (int, unix.Errno) {
	return 0, unix.ENOSYS
}
