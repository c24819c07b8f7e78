package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Container runs the server in a container of an engine that the host has (docker,
// podman), from an image that holds the golden's data, as people bake them in.
type Container struct {
	engine string
	image  string
	o      Original
	login  Endpoint
	place  Place
}

var _ Peer = (*Container)(nil)

// NewContainer makes the image from the root filesystem of a clone that runs, by its
// process. It fails with [ErrNotHere] if the engine does not answer. The
// caller must Close it.
func NewContainer(ctx context.Context, engine string, pid int, o Original, login Endpoint, place Place) (*Container, error) {
	if out, err := exec.CommandContext(ctx, engine, "info").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s: %w: %w %s", engine, ErrNotHere, err, reason(string(out)))
	}
	c := &Container{engine: engine, image: "ctrsnap-bench:" + filepath.Base(place.Sockets), o: o, login: login, place: place}
	tar := seenFrom(ctx, pid, "tar", "-C", fmt.Sprintf("/proc/%d/root", pid), "--exclude=./proc", "--exclude=./sys", "--exclude=./dev",
		"--exclude=*postmaster.pid", "--exclude=*.s.PGSQL.*", "-c", ".")
	load := exec.CommandContext(ctx, engine, "import", "-", c.image)
	var out bytes.Buffer
	load.Stdout, load.Stderr = &out, &out
	var err error
	if load.Stdin, err = tar.StdoutPipe(); err != nil {
		return nil, err
	}
	if err := tar.Start(); err != nil {
		return nil, fmt.Errorf("read root filesystem: %w", err)
	}
	// A file that changes while it is read is none of the data's: the server is idle.
	if err := errors.Join(load.Run(), ignoreExit(tar.Wait(), 1)); err != nil {
		return nil, fmt.Errorf("make image for %s: %w: %s", engine, err, out.String())
	}
	return c, nil
}

// seenFrom is a command to which files belong to those to whom they do in a process's user
// namespace: the image is to say so, as that of somebody who has made it there.
func seenFrom(ctx context.Context, pid int, args ...string) *exec.Cmd {
	ours, _ := os.Readlink("/proc/self/ns/user")
	if its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", pid)); err == nil && its != ours {
		args = append([]string{"nsenter", "--user", "--target", strconv.Itoa(pid), "--"}, args...)
	}
	return exec.CommandContext(ctx, args[0], args[1:]...)
}

// reason is the line of an output that says what is wrong, or the last of its lines.
func reason(out string) string {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	for _, line := range lines {
		if strings.HasPrefix(strings.ToUpper(line), "ERROR") {
			return strings.TrimSpace(line)
		}
	}
	return lines[len(lines)-1]
}

// ignoreExit forgives one exit code.
func ignoreExit(err error, code int) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == code {
		return nil
	}
	return err
}

// Name implements [Peer].
func (c *Container) Name() string { return c.engine + "_run" }

// Get implements [Peer].
func (c *Container) Get(ctx context.Context) (Endpoint, Drop, error) {
	_, sockets := c.place.next(c.engine)
	at := c.login
	at.Socket = filepath.Join(sockets, ".s.PGSQL.5432")
	if err := errors.Join(os.MkdirAll(sockets, 0o755), os.Chown(sockets, int(c.o.UID), int(c.o.GID))); err != nil {
		return at, nil, err
	}
	id, err := c.run(ctx, append(c.flags(sockets), c.o.inside("/sockets", "5432")...)...)
	if err != nil {
		return at, nil, err
	}
	drop := func(ctx context.Context) error {
		_, err := c.run(ctx, "rm", "--force", "--volumes", id)
		return errors.Join(err, os.RemoveAll(sockets))
	}
	if err := c.await(ctx, at); err != nil {
		logs, _ := c.run(ctx, "logs", id) // they say why, or nothing
		return at, nil, errors.Join(fmt.Errorf("%w: %s", err, logs), drop(context.WithoutCancel(ctx)))
	}
	return at, drop, nil
}

func (c *Container) flags(sockets string) []string {
	args := []string{"run", "--detach", "--network=none", fmt.Sprintf("--user=%d:%d", c.o.UID, c.o.GID), "--volume=" + sockets + ":/sockets"}
	for _, kv := range c.o.Env {
		args = append(args, "--env="+kv)
	}
	return append(args, c.image)
}

// inside returns the server's command line in a container with the clone's paths.
func (o Original) inside(sockets, port string) []string {
	args := o.adapt(o.DataDir, o.setting("hba_file"), o.setting("config_file"), sockets, port)
	args[0] = o.Program
	return args
}

// await connects until the server answers: the engine does not say when it does.
func (c *Container) await(ctx context.Context, at Endpoint) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := at.Answer(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		}
	}
}

func (c *Container) run(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, c.engine, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", c.engine, args[0], err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1], nil
}

// Close implements [Peer].
func (c *Container) Close(ctx context.Context) error {
	_, err := c.run(ctx, "rmi", "--force", c.image)
	return err
}
