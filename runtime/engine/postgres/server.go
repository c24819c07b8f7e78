package postgres

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// defaults make a clone's server boot fast and leave an idle one asleep. The golden's own files go over them, and so
// do settings that are given. All exist in PostgreSQL 12 to 18.
// See https://www.postgresql.org/docs/current/runtime-config.html.
var defaults = map[string]string{
	// Less to write and to keep: no replication, no zero-filled or recycled segments on a copy-on-write layer.
	"wal_level":       "minimal",
	"max_wal_senders": "0",
	"wal_init_zero":   "off",
	"wal_recycle":     "off",
	"max_wal_size":    "512MB",
	"min_wal_size":    "32MB",
	"shared_buffers":  "64MB",
	// The server zeroes them at boot: a 32nd of shared_buffers would be 500 pages.
	"wal_buffers": "256kB",
	// A clone that nobody uses uses no CPU: its background processes sleep as long as
	// they may. A commit writes its own WAL, for synchronous_commit is on; backends write themselves what they evict,
	// which is a copy in memory; autovacuum goes round a tenth as often.
	"bgwriter_delay":        "10s",
	"bgwriter_lru_maxpages": "0",
	"wal_writer_delay":      "10s",
	"autovacuum_naptime":    "10min",
}

// kept are what a clone's safety or speed needs whatever the golden's files say. Those who give a setting may change them.
var kept = map[string]string{
	// A clone does not survive the machine: nothing has to reach the disk.
	"fsync":            "off",
	"full_page_writes": "off",
	"huge_pages":       "off",
	// What the data came from is not reached for: no archive, no standby that a commit waits for, no publisher.
	"archive_mode":                    "off",
	"synchronous_standby_names":       "",
	"max_logical_replication_workers": "0",
	"log_destination":                 "stderr",
	"logging_collector":               "off",
}

// following are the server's own values of defaults that keep those waiting who follow the WAL. They hold where it has
// more than recovery needs.
var following = map[string]string{
	"max_wal_senders": "10", "wal_writer_delay": "200ms", "bgwriter_delay": "200ms", "bgwriter_lru_maxpages": "100",
}

// contract are the settings that a clone stands on: nobody overrides them.
// In a data directory they may be set to paths that are not in the clone.
func (s state) contract() map[string]string {
	return map[string]string{
		"data_directory":          s.DataDir,
		"hba_file":                hbaFile,
		"listen_addresses":        "*",
		"port":                    fmt.Sprint(port),
		"unix_socket_directories": runtime.SocketDir,
	}
}

// reserved are settings beside those of contract that users may not set: they
// say which files are read and who may use the socket.
var reserved = []string{
	"config_file", "ident_file", "unix_socket_group", "unix_socket_permissions",
	"logging_collector", "log_destination", "event_source",
}

var settingRE = regexp.MustCompile(`^[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_$]*)*$`)

// Server returns the server of a clone. settings go over the engine's own and
// the golden's. One that a clone cannot have is InvalidArgument.
func (*Engine) Server(g snapshot.Golden, settings map[string]string) (runtime.Process, error) {
	s, err := stateOf(g)
	if err != nil {
		return runtime.Process{}, err
	}
	if err := s.checkSettings(settings); err != nil {
		return runtime.Process{}, err
	}
	return s.cloneServer(g.Settings, settings), nil
}

// engineSettings are those that nobody has chosen.
func (s state) engineSettings() map[string]string {
	all := maps.Clone(defaults)
	if major(s.Version) >= 18 {
		// A backend reads by itself, as before, in place of three processes more.
		all["io_method"], all["io_max_concurrency"] = "sync", "8"
	}
	return all
}

// merged are all settings of a clone's server: the engine's, over them those of the golden's files,
// what is kept whatever they say, the golden's, the clone's, and those that it stands on.
func (s state) merged(golden, clone map[string]string) map[string]string {
	all, chosen := s.engineSettings(), maps.Clone(s.Own)
	if chosen == nil {
		chosen = map[string]string{}
	}
	for _, more := range []map[string]string{kept, s.Force, golden, clone} {
		override(chosen, more)
	}
	override(all, chosen)
	giveWay := func(name, value string) {
		if _, ok := chosen[name]; !ok {
			all[name] = value
		}
	}
	if all["wal_level"] != "minimal" {
		for name, value := range following {
			giveWay(name, value)
		}
	}
	for name := range chosen {
		if strings.HasPrefix(name, "autovacuum") { // who tunes it waits for it
			giveWay("autovacuum_naptime", "1min")
		}
	}
	maps.Copy(all, s.contract())
	return all
}

// override sets what a user has chosen. Names are the server's whatever their case.
func override(settings, with map[string]string) {
	for name, value := range with {
		settings[strings.ToLower(name)] = value
	}
}

// checkSettings refuses settings that no clone can have. Whether the server knows
// the others, it says itself.
func (s state) checkSettings(settings map[string]string) error {
	for name, value := range settings {
		if err := s.checkSetting(strings.ToLower(name), value); err != nil {
			return err
		}
	}
	return nil
}

func (s state) checkSetting(name, value string) error {
	if !settingRE.MatchString(name) || strings.ContainsAny(value, "\x00\n\r") {
		return snapshot.WithHint(
			fmt.Errorf("invalid setting %.80q: %w", name, errdefs.ErrInvalidArgument),
			"settings are PostgreSQL's, as in work_mem=64MB")
	}
	if _, ok := s.contract()[name]; ok || slices.Contains(reserved, name) {
		return snapshot.WithHint(
			fmt.Errorf("setting %s cannot be changed in a clone: %w", name, errdefs.ErrInvalidArgument),
			"a clone's files, addresses and log are ctrsnap's")
	}
	return nil
}

// cloneServer is the server of a clone. What its files say already is no argument: an ALTER SYSTEM in the clone
// goes over it.
func (s state) cloneServer(golden, clone map[string]string) runtime.Process {
	all := s.merged(golden, clone)
	if s.Conf != nil {
		all["config_file"] = confFile
	}
	for _, files := range []map[string]string{s.Conf, s.Own} {
		for name, value := range files {
			if all[name] == value && !given(golden, name) && !given(clone, name) {
				delete(all, name)
			}
		}
	}
	return s.server(all)
}

// server is the server's process with settings.
func (s state) server(settings map[string]string) runtime.Process {
	p := s.process(append([]string{"postgres", "-D", s.DataDir}, settingArgs(settings)...))
	p.Stop = syscall.SIGINT // fast shutdown: clients are not waited for
	return p
}

func settingArgs(settings map[string]string) []string {
	var args []string
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		args = append(args, "-c", name+"="+settings[name])
	}
	return args
}

// joinEnv writes "K=V" in the order of the keys.
func joinEnv(keys []string, vars map[string]string) []string {
	slices.Sort(keys)
	env := make([]string, len(keys))
	for i, k := range keys {
		env[i] = k + "=" + vars[k]
	}
	return env
}
