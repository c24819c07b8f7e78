package seccomp

import "golang.org/x/sys/unix"

// arches are the architectures that filters are made for: programs of 32 bits are
// killed, as those of every architecture that a profile does not list.
var arches = []arch{{audit: unix.AUDIT_ARCH_AARCH64, calls: nativeCalls, wide: true}}
