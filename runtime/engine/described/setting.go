package described

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// Server returns the server of a clone.
func (e *Engine) Server(g snapshot.Golden, settings map[string]string) (runtime.Process, error) {
	s, err := e.of(g)
	if err != nil {
		return runtime.Process{}, err
	}
	if err := s.checkSettings(settings); err != nil {
		return runtime.Process{}, err
	}
	return s.server(s.d.Server.CloneArgs, merge(s.d.Settings.Clone, g.Settings, settings))
}

func merge(tables ...map[string]string) map[string]string {
	all := map[string]string{}
	for _, t := range tables {
		maps.Copy(all, t)
	}
	return all
}

// server is the server's process: its own arguments, those of the place, settings.
func (s served) server(args []string, settings map[string]string) (runtime.Process, error) {
	f := s.fields()
	f.Host = "0.0.0.0"
	p, err := s.process(f, slices.Concat(s.d.Server.Args, args), nil)
	if err != nil {
		return p, fmt.Errorf("describe server: %w", err)
	}
	p.Stop, p.StopCode = unix.SignalNum("SIG"+s.d.Server.StopSignal), s.d.Server.ExitCode
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		f.Name, f.Value = name, settings[name]
		more, err := f.all(s.d.Settings.Args)
		if err != nil {
			return p, fmt.Errorf("describe setting %s: %w", name, err)
		}
		p.Args = append(p.Args, more...)
	}
	return p, nil
}

// checkSettings refuses settings that no clone can have. Whether the server knows
// the others, it says itself.
func (s served) checkSettings(settings map[string]string) error {
	if len(settings) > 0 && len(s.d.Settings.Args) == 0 {
		return fmt.Errorf("engine %s has no settings: %w", s.d.Name, errdefs.ErrInvalidArgument)
	}
	re, err := regexp.Compile("^(?:" + s.d.Settings.Name + ")$")
	if err != nil {
		return err
	}
	for name, value := range settings {
		if !re.MatchString(name) || strings.ContainsAny(value, "\x00\n\r") {
			return snapshot.WithHint(fmt.Errorf("invalid setting %.80q: %w", name, errdefs.ErrInvalidArgument),
				"settings are "+s.d.Name+"'s own")
		}
		if slices.Contains(s.d.Settings.Reserved, canonical(name)) {
			return snapshot.WithHint(fmt.Errorf("setting %s cannot be changed in a clone: %w", name, errdefs.ErrInvalidArgument),
				"a clone's files, addresses and log are ctrsnap's")
		}
	}
	return nil
}

// canonical is a setting's name as reserved ones are written.
func canonical(name string) string { return strings.ReplaceAll(strings.ToLower(name), "_", "-") }

// LimitConnections implements [runtime.ConnectionLimiter].
func (e *Engine) LimitConnections(n int) (map[string]string, error) {
	s := e.d.Settings
	switch {
	case s.Connections == "":
		return nil, fmt.Errorf("engine %s has no limit of connections: %w", e.d.Name, errdefs.ErrInvalidArgument)
	case n < s.LeastConnections:
		return nil, fmt.Errorf("limit of connections %d: engine %s has %d at least: %w", n, e.d.Name, s.LeastConnections, errdefs.ErrInvalidArgument)
	}
	return map[string]string{s.Connections: strconv.Itoa(n)}, nil
}

// Settings implements [runtime.Settler].
func (e *Engine) Settings(g snapshot.Golden, settings map[string]string) ([]runtime.Setting, error) {
	s, err := e.of(g)
	if err != nil {
		return nil, err
	}
	own := s.d.Settings
	all := merge(own.Clone, g.Settings, settings)
	list := make([]runtime.Setting, 0, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		set := runtime.Setting{Name: name, Value: all[name], From: runtime.SettingEngine}
		if _, ok := settings[name]; ok {
			set.From = runtime.SettingClone
		} else if _, ok := g.Settings[name]; ok {
			set.From = runtime.SettingGolden
		}
		if set.Value == own.Clone[name] {
			set.Note = own.Notes[name]
		}
		list = append(list, set)
	}
	return list, nil
}
