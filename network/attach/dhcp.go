package attach

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/cni"
)

// dhcpStart bounds how long the plugin's daemon may take to listen.
const dhcpStart = 10 * time.Second

// dhcpTimes have the plugin give up before it is given up on: a link without a
// server is an error that names it.
var dhcpTimes = []string{"-timeout", "3s", "-resendtimeout", "12s"}

func (a *Attacher) dhcpFile(suffix string) string {
	return filepath.Join(a.opts.Dir, "dhcp."+suffix)
}

// serveDHCP sees to it that the daemon of CNI's dhcp plugin runs, which renews
// leases and gives them back, and returns its socket. It outlives this process.
func (a *Attacher) serveDHCP() (socket string, _ error) {
	a.dhcp.Lock()
	defer a.dhcp.Unlock()
	socket = a.dhcpFile("sock")
	if c, err := net.Dial("unix", socket); err == nil {
		return socket, c.Close()
	}
	program, err := a.dhcpPlugin()
	if err != nil {
		return "", err
	}
	if err := errors.Join(remove(socket), a.startDHCP(program, socket)); err != nil {
		return "", fmt.Errorf("start %s: %w", program, err)
	}
	return socket, nil
}

// dhcpPlugin finds the plugin.
func (a *Attacher) dhcpPlugin() (string, error) {
	dirs := a.opts.BinDirs
	if len(dirs) == 0 {
		dirs = cni.DefaultBinDirs
	}
	for _, dir := range dirs {
		if path, err := exec.LookPath(filepath.Join(dir, "dhcp")); err == nil {
			return path, nil
		}
	}
	return "", network.WithHint(
		fmt.Errorf("find CNI plugin dhcp in %s: %w", strings.Join(dirs, ", "), errdefs.ErrFailedPrecondition),
		"install the CNI plugins, or set network.bin_dirs")
}

// startDHCP runs the daemon in a session of its own, and returns when it listens.
func (a *Attacher) startDHCP(program, socket string) error {
	log, err := os.OpenFile(a.dhcpFile("log"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(program, slices.Concat([]string{"daemon", "-socketpath", socket, "-pidfile", a.dhcpFile("pid")}, dhcpTimes)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(dhcpStart); time.Now().Before(deadline); {
		if c, err := net.Dial("unix", socket); err == nil {
			return c.Close()
		}
		select {
		case err := <-ended:
			return fmt.Errorf("it ended at once (%w): see %s", err, log.Name())
		case <-tick.C:
		}
	}
	return errors.Join(fmt.Errorf("it does not listen: %w", errdefs.ErrUnavailable), cmd.Process.Kill())
}

// endDHCP ends the daemon when nobody has a lease any more.
func (a *Attacher) endDHCP() error {
	a.mu.Lock() // nobody is about to ask for one
	defer a.mu.Unlock()
	a.dhcp.Lock()
	defer a.dhcp.Unlock()
	pid, err := os.ReadFile(a.dhcpFile("pid"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	all, listErr := a.all()
	if err := errors.Join(err, listErr); err != nil {
		return err
	}
	if slices.ContainsFunc(all, func(att Attachment) bool { return att.DHCP }) {
		return nil
	}
	if n, err := strconv.Atoi(strings.TrimSpace(string(pid))); err == nil && a.isDHCP(n) {
		if err := syscall.Kill(n, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("end the daemon of CNI plugin dhcp: %w", err)
		}
	}
	return errors.Join(remove(a.dhcpFile("pid")), remove(a.dhcpFile("sock")))
}

// isDHCP says whether a process is the daemon: its number may be another's by now.
func (a *Attacher) isDHCP(pid int) bool {
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && bytes.Contains(args, append([]byte{0}, a.dhcpFile("sock")+"\x00"...))
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// leased notes what a server gave.
func leased(att *Attachment, r *types100.Result) {
	for _, ip := range r.IPs {
		att.IP = ip.Address.String()
		if ip.Gateway != nil {
			att.Gateway = ip.Gateway.String()
		}
	}
}
