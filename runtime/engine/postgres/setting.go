package postgres

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

var (
	_ runtime.Settler           = (*Engine)(nil)
	_ runtime.ConnectionLimiter = (*Engine)(nil)
)

// LimitConnections has no connection kept for superusers, whom clones are handed out to.
func (*Engine) LimitConnections(n int) (map[string]string, error) {
	return map[string]string{"max_connections": strconv.Itoa(n), "superuser_reserved_connections": "0"}, nil
}

// notes say of settings of the engine's what a server of one's own would do
// otherwise. None changes what a query means.
var notes = map[string]string{
	"fsync":                           "durability is off: what is written is lost if the host fails",
	"full_page_writes":                "durability is off: no protection from torn pages if the host fails",
	"wal_level":                       "the WAL has what recovery needs: no slots, no base backup; wal_level=replica or logical allows them",
	"autovacuum_naptime":              "tables are vacuumed and analyzed by themselves every ten minutes, not every minute",
	"archive_mode":                    "no WAL is archived",
	"max_logical_replication_workers": "subscriptions are not followed; max_logical_replication_workers=4 allows it",
	"max_wal_senders":                 "no replication from the clone; wal_level=replica or logical allows it",
	"synchronous_standby_names":       "no commit waits for a standby",
}

// Settings tells what the server of a clone is set to, beside what its data
// directory says: the engine's choices, over them the golden's and the clone's.
func (*Engine) Settings(g snapshot.Golden, settings map[string]string) ([]runtime.Setting, error) {
	s, err := stateOf(g)
	if err != nil {
		return nil, err
	}
	all := s.merged(g.Settings, settings)
	list := make([]runtime.Setting, 0, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		set := runtime.Setting{Name: name, Value: all[name], From: runtime.SettingEngine}
		switch {
		case given(settings, name):
			set.From = runtime.SettingClone
		case given(g.Settings, name) || given(s.Own, name) && set.Value == s.Own[name]:
			set.From = runtime.SettingGolden
		}
		if ours := s.engineSettings(); set.Value == ours[name] || set.Value == kept[name] {
			set.Note = notes[name]
		}
		list = append(list, set)
	}
	return list, nil
}

// given says whether a user has chosen the setting. name is in lower case.
func given(settings map[string]string, name string) bool {
	for k := range settings {
		if strings.ToLower(k) == name {
			return true
		}
	}
	return false
}
