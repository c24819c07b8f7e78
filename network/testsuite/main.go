// Package testsuite holds what every network.Provider of the default network
// must do, as tests: containerd's way with snapshotters.
package testsuite

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Main runs the tests of a package in network and mount namespaces of their
// own, so that the host's network is not touched and nothing of theirs outlives
// them.
func Main(m *testing.M) {
	const child = "NETWORK_TEST_CHILD"
	if os.Getuid() != 0 {
		os.Exit(m.Run())
	}
	if os.Getenv(child) != "" {
		if err := netlink.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "lo"}}); err != nil {
			fmt.Fprintln(os.Stderr, "set loopback up:", err)
			os.Exit(1)
		}
		// A new namespace has what the host's first one has at that moment.
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0); err != nil {
			fmt.Fprintln(os.Stderr, "be no router:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), child+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Unshareflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, // makes mounts private, too
		Pdeathsig:    syscall.SIGKILL,
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
