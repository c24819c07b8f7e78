package manager

import (
	"os/exec"
	"testing"
)

// A process that has ended counts as ended before anybody has waited for it.
func TestHasEnded(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &clone{died: make(chan struct{}), proc: openPID(cmd.Process.Pid)}
	defer c.leavePool()
	if c.hasEnded() || isEnding(cmd.Process.Pid) {
		t.Error("it runs")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for !isEnding(cmd.Process.Pid) { // at once, but for the moment in which it takes the signal
	}
	_, _ = stdout.Read(make([]byte, 1)) // until it is gone, but not waited for
	for !c.hasEnded() {                 // the kernel closes files a moment before
	}
	if err := cmd.Wait(); err == nil || !c.hasEnded() || !isEnding(cmd.Process.Pid) {
		t.Error("after the wait it runs again")
	}
}
