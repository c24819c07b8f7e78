package seccomp

import "golang.org/x/sys/unix"

// arches are the architectures that this kernel runs programs of. Calls of the
// x32 ABI come as those of x86-64 with a bit set; see [x32Bit].
var arches = []arch{
	{audit: unix.AUDIT_ARCH_X86_64, calls: nativeCalls, wide: true},
	{audit: unix.AUDIT_ARCH_I386, calls: compatCalls, name: "SCMP_ARCH_X86"},
}
