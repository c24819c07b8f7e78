package postgres

import (
	"maps"
	"slices"
	"strings"
)

// A database and a role may have settings of their own (ALTER DATABASE … SET, ALTER ROLE … SET). They are for applications, and hold for
// every session that does not say otherwise as it starts: parameters of the startup packet, and with them PGOPTIONS, beat them. See
// enum GucSource in src/include/utils/guc.h.

// settingsOf are settings of a session with a server of a major version.
type settingsOf func(version int) map[string]string

// patience are the settings of a session that is not cut off and may write. Every role may set them.
func patience(version int) map[string]string {
	p := map[string]string{
		"statement_timeout": "0", "lock_timeout": "0", "idle_in_transaction_session_timeout": "0",
		"default_transaction_read_only": "off", "default_transaction_isolation": "read committed", "default_transaction_deferrable": "off",
	}
	if version >= 14 {
		p["idle_session_timeout"] = "0"
	}
	if version >= 17 {
		p["transaction_timeout"] = "0"
	}
	return p
}

// loading are those of a session that loads what pg_dump has written: nothing changes what the text means, and who loads it
// is a superuser with no library of the application's.
func loading(version int) map[string]string {
	p := patience(version)
	maps.Copy(p, map[string]string{
		"role": "none", "row_security": "on", "session_replication_role": "origin", "session_preload_libraries": "", "local_preload_libraries": "",
		"array_nulls": "on", "DateStyle": "ISO, MDY", "IntervalStyle": "postgres", "transform_null_equals": "off", "exit_on_error": "off",
		"default_tablespace": "", "temp_tablespaces": "", "default_table_access_method": "heap", "lo_compat_privileges": "off",
	})
	if version >= 17 {
		p["event_triggers"] = "on"
	}
	return p
}

// own are those of ctrsnap's own sessions as a superuser: what they send, passwords among it, is in no log, whatever the golden logs.
func own(version int) map[string]string {
	p := loading(version)
	maps.Copy(p, map[string]string{
		"client_encoding": "UTF8", "log_statement": "none", "log_duration": "off", "log_min_duration_statement": "-1", "log_min_error_statement": "panic",
	})
	if version >= 13 {
		p["log_min_duration_sample"] = "-1"
	}
	p["log_transaction_sample_rate"] = "0"
	return p
}

// pgOptions is PGOPTIONS with settings: the server splits it at white space, see pg_split_opts in src/backend/utils/init/postinit.c.
func pgOptions(settings map[string]string) string {
	quote := strings.NewReplacer(`\`, `\\`, " ", `\ `)
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		text.WriteString("-c " + name + "=" + quote.Replace(settings[name]) + " ")
	}
	return "PGOPTIONS=" + text.String() + "-c lc_messages=C"
}
