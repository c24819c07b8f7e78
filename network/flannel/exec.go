// Package flannel does what the CNI plugin of that name does: it hands over to
// another plugin, as a rule bridge, with the subnet that flanneld has leased for
// this host. It is used where that plugin is not installed.
package flannel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

// Type is the plugin's name in a conflist.
const Type = "flannel"

// inProcess stands for the path of a plugin that is not installed.
const inProcess = "flannel, in process"

// Exec runs CNI plugins, and in place of a flannel plugin that is not installed
// the code below.
type Exec struct {
	invoke.Exec
}

var _ invoke.Exec = Exec{}

// FindInPath implements invoke.Exec.
func (e Exec) FindInPath(plugin string, paths []string) (string, error) {
	path, err := e.Exec.FindInPath(plugin, paths)
	if err != nil && plugin == Type {
		return inProcess, nil
	}
	return path, err
}

// ExecPlugin implements invoke.Exec.
func (e Exec) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	if path != inProcess {
		return e.Exec.ExecPlugin(ctx, path, stdin, environ)
	}
	c := call{e.Exec, environ}
	command := c.env("CNI_COMMAND")
	if command == "VERSION" {
		return json.Marshal(version.All)
	}
	conf, err := ParseConf(stdin)
	if err != nil {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, err.Error(), "")
	}
	switch command {
	case "ADD":
		return c.add(ctx, conf)
	case "DEL":
		return nil, c.del(ctx, conf)
	case "CHECK":
		return nil, c.check(ctx, conf)
	case "STATUS":
		if _, err := ReadEnv(conf.SubnetFile); err != nil {
			return nil, types.NewError(types.ErrPluginNotAvailable, err.Error(), "")
		}
	}
	return nil, nil // GC: what an attachment leaves goes with its DEL
}

// call is one call of a plugin.
type call struct {
	exec    invoke.Exec
	environ []string
}

// env returns a variable of the call; the last one counts, as for execve(2)'s
// callers.
func (c call) env(key string) (value string) {
	for _, kv := range c.environ {
		if v, ok := strings.CutPrefix(kv, key+"="); ok {
			value = v
		}
	}
	return value
}

// add keeps what it delegates first, in the file and form that the plugin does,
// so that either can undo it.
func (c call) add(ctx context.Context, conf Conf) ([]byte, error) {
	env, err := ReadEnv(conf.SubnetFile)
	if err != nil {
		return nil, types.NewError(types.ErrTryAgainLater, err.Error(), "")
	}
	doc, err := conf.Render(env)
	if err != nil {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, err.Error(), "")
	}
	if err := os.MkdirAll(conf.DataDir, 0o700); err != nil {
		return nil, types.NewError(types.ErrIOFailure, err.Error(), "")
	}
	if err := os.WriteFile(c.record(conf), doc, 0o600); err != nil {
		return nil, types.NewError(types.ErrIOFailure, err.Error(), "")
	}
	return c.delegate(ctx, doc)
}

func (c call) del(ctx context.Context, conf Conf) error {
	doc, err := os.ReadFile(c.record(conf))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		_, err = c.delegate(ctx, doc)
	}
	if err != nil {
		return err
	}
	return os.Remove(c.record(conf))
}

// check does more than the plugin, which finds everything right.
func (c call) check(ctx context.Context, conf Conf) error {
	doc, err := os.ReadFile(c.record(conf))
	if err != nil {
		return types.NewError(types.ErrUnknownContainer, err.Error(), "")
	}
	var delegate object
	if err := json.Unmarshal(doc, &delegate); err != nil {
		return types.NewError(types.ErrDecodingFailure, err.Error(), "")
	}
	delegate["prevResult"] = conf.PrevResult
	if doc, err = json.Marshal(delegate); err != nil {
		return err
	}
	_, err = c.delegate(ctx, doc)
	return err
}

func (c call) record(conf Conf) string {
	return filepath.Join(conf.DataDir, c.env("CNI_CONTAINERID"))
}

// delegate calls the other plugin with the same command for the same container.
func (c call) delegate(ctx context.Context, doc []byte) ([]byte, error) {
	var conf types.PluginConf
	if err := json.Unmarshal(doc, &conf); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, err.Error(), "")
	}
	path, err := c.exec.FindInPath(conf.Type, filepath.SplitList(c.env("CNI_PATH")))
	if err != nil {
		return nil, fmt.Errorf("delegate of flannel: %w", err)
	}
	return c.exec.ExecPlugin(ctx, path, doc, c.environ)
}
