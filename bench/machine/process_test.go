package machine_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ctrsnap/ctrsnap/bench/machine"
)

func TestProcess(t *testing.T) {
	if n, err := machine.ProcessMemory(os.Getpid()); err != nil || n < 1<<20 {
		t.Errorf("memory %d, %v", n, err)
	}
	before, err := machine.ProcessCPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	whole := machine.CPUTime()
	for now := before; now == before; { // until a tick was used
		if now, err = machine.ProcessCPU(os.Getpid()); err != nil {
			t.Fatal(err)
		}
	}
	if machine.CPUTime() < whole {
		t.Error("the processors' time goes back")
	}
	if _, err := machine.ProcessCPU(1 << 30); err == nil {
		t.Error("a process that is not there has worked")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	name, dir := filepath.Base(exe), filepath.Dir(wd)
	if pids, err := machine.ProcessesIn(name, dir); err != nil || !slices.Contains(pids, os.Getpid()) {
		t.Errorf("this process is not among %v, %v", pids, err)
	}
	if pids, err := machine.ProcessesIn(name, "/nowhere"); err != nil || len(pids) > 0 {
		t.Errorf("got %v, %v", pids, err)
	}
}
