package postgres

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/engine/rootfs"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// boilerplate is what initdb writes of the settings that the engine chooses: nobody's choice.
var boilerplate = map[string]string{"shared_buffers": "128MB", "max_wal_size": "1GB", "min_wal_size": "80MB"}

// places are settings that name what is not in a clone, or would keep its callers out.
var places = map[string]string{"external_pid_file": "", "unix_socket_group": "", "unix_socket_permissions": "0777"}

// certificates are settings that name files of an encrypting server, with those of clones.
var certificates = map[string]string{
	"ssl_cert_file": certFile, "ssl_key_file": keyFile, "ssl_ca_file": "", "ssl_crl_file": "", "ssl_dh_params_file": "",
}

// ownSQL lists what the configuration files say, the last word of each setting, and what is wrong with it. A
// setting that takes a restart is no fault.
const ownSQL = `SELECT DISTINCT ON (pg_catalog.lower(name)) pg_catalog.concat_ws(E'\x01', pg_catalog.lower(name), setting,
	CASE WHEN sourcefile LIKE '%/postgresql.auto.conf' THEN 'auto' ELSE '' END,
	CASE WHEN error = 'setting could not be applied' THEN 'restart' ELSE coalesce(error, '') END,
	sourcefile || ':' || sourceline)
FROM pg_catalog.pg_file_settings ORDER BY pg_catalog.lower(name), seqno DESC`

// fileSetting is a setting of a configuration file.
type fileSetting struct {
	name, value string
	auto        bool   // by ALTER SYSTEM
	pending     bool   // the server under construction has another value
	fault       string // why the server does not take it
	place       string // file:line
}

func (b *build) fileSettings(ctx context.Context) ([]fileSetting, error) {
	rows, err := b.query(ctx, "template1", ownSQL)
	if err != nil {
		return nil, fmt.Errorf("read the golden's settings: %w", err)
	}
	var list []fileSetting
	for _, row := range rows {
		f := strings.Split(row, "\x01")
		if len(f) < 5 { // a line that is no setting has no name and no value
			return nil, &runtime.SourceError{File: "configuration", Message: strings.Join(f, " ")}
		}
		set := fileSetting{name: f[0], value: f[1], auto: f[2] != "", pending: f[3] == "restart", place: f[4]}
		if !set.pending {
			set.fault = f[3]
		}
		list = append(list, set)
	}
	return list, nil
}

// settle finds out what clones are set to by the golden's own files: postgresql.conf, what it includes, ALTER SYSTEM. What
// they do not get of it is told. A setting that takes a restart is tried by one.
func (b *build) settle(ctx context.Context) error {
	list, err := b.fileSettings(ctx)
	if err != nil {
		return err
	}
	b.st.Own, b.st.Force, b.st.Conf = map[string]string{}, map[string]string{}, nil
	var try []string
	said := map[string]string{}
	for _, set := range list {
		if set.fault != "" {
			return &runtime.SourceError{File: set.place, Message: fmt.Sprintf("%s = %s: %s", set.name, set.value, set.fault)}
		}
		said[set.name] = set.value
		if !set.auto && set.value == boilerplate[set.name] {
			continue
		}
		_, ours := b.st.engineSettings()[set.name]
		if ours || strings.HasPrefix(set.name, "autovacuum") {
			b.st.Own[set.name] = set.value
		}
		if instead, ok := places[set.name]; ok {
			b.st.Force[set.name] = instead
		}
		if set.pending {
			try = append(try, set.name+"="+set.value)
		}
	}
	if err := b.settleTLS(ctx, said); err != nil {
		return err
	}
	b.st.Conf = b.confSettings()
	b.tellKept(said)
	if len(try) == 0 {
		return nil
	}
	return b.tryClone(ctx, try)
}

// settleTLS has a golden that encrypts use a certificate that is there.
func (b *build) settleTLS(ctx context.Context, said map[string]string) error {
	if !isOn(said["ssl"]) {
		return nil
	}
	names := slices.Collect(maps.Keys(certificates))
	var lost bool
	for _, name := range names {
		file := said[name]
		if file == "" {
			continue
		}
		if !path.IsAbs(file) {
			file = path.Join(b.st.DataDir, file)
		}
		rows, err := b.query(ctx, "template1", "SELECT 1 FROM pg_catalog.pg_stat_file("+literal(file)+", true) WHERE size IS NOT NULL")
		if err != nil {
			return fmt.Errorf("look for %s: %w", name, err)
		}
		lost = lost || len(rows) == 0
	}
	if lost {
		for _, name := range names {
			b.st.Force[name] = certificates[name]
		}
	}
	return nil
}

func isOn(value string) bool {
	return slices.Contains([]string{"on", "true", "yes", "1", "t", "y", "tr", "tru", "ye"}, strings.ToLower(value))
}

// tellKept says which settings of the golden's files its clones do not have.
func (b *build) tellKept(said map[string]string) {
	all := b.st.merged(b.src.Settings, nil)
	var lost []string
	for _, name := range slices.Sorted(maps.Keys(said)) {
		_, stands := b.st.contract()[name]
		_, keeps := kept[name]
		_, forced := b.st.Force[name]
		has := all[name]
		if stands || keeps || forced {
			if has != said[name] && (has != "off" || isOn(said[name])) {
				lost = append(lost, fmt.Sprintf("%s=%s (clones: %s)", name, said[name], has))
			}
		}
	}
	if len(lost) > 0 {
		b.wb.Warn("the golden's files set what clones do not have: " + strings.Join(lost, ", "))
	}
}

// confSettings are the engine's settings that the golden's files do not set.
func (b *build) confSettings() map[string]string {
	all, conf := b.st.merged(b.src.Settings, nil), map[string]string{}
	for name := range b.st.engineSettings() {
		if _, own := b.st.Own[name]; !own && !given(b.src.Settings, name) {
			conf[name] = all[name]
		}
	}
	return conf
}

// writeConf writes the configuration file of clones: what the golden's own says goes over the engine's settings, but for what
// initdb has written.
func (b *build) writeConf(r *rootfs.Root) error {
	quote := func(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
	before, after := "", ""
	for _, name := range slices.Sorted(maps.Keys(b.st.Conf)) {
		line := name + " = " + quote(b.st.Conf[name]) + "\n"
		if _, ok := boilerplate[name]; ok {
			after += line
		} else {
			before += line
		}
	}
	text := "# Written by ctrsnap: what clones have unless the golden or the caller says otherwise.\n" +
		"ssl_cert_file = " + quote(certFile) + "\nssl_key_file = " + quote(keyFile) + "\n" + before +
		"include " + quote(b.st.DataDir+"/postgresql.conf") + "\n" + after
	return writeFile(r, confFile, text, 0o644)
}

// tryClone boots the server as a clone does, with settings that nobody has tried, and the one of the build again.
func (b *build) tryClone(ctx context.Context, settings []string) error {
	b.wb.Step("try settings")
	if err := b.stop(ctx); err != nil {
		return err
	}
	if err := rootfs.Edit(ctx, b.wb.Root, b.writeConf); err != nil {
		return err
	}
	err := b.serve(ctx, b.st.cloneServer(b.src.Settings, nil), pidFile.ready)
	if err != nil {
		return snapshot.WithHint(&runtime.SourceError{File: "configuration", Message: err.Error() + " (" + strings.Join(settings, ", ") + ")"},
			"the golden's files, or ALTER SYSTEM in a script, set what a server does not start with")
	}
	if err := b.stop(ctx); err != nil {
		return err
	}
	return b.start(ctx)
}
