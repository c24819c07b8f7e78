package postgres

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

var (
	extensionRE = regexp.MustCompile(`extension "([^"]+)" is not available|could not open extension control file ".*/([^/"]+)\.control"`)
	libraryRE   = regexp.MustCompile(`could not access file "(?:\$libdir/)?([^"]+)"`)
	cutRE       = regexp.MustCompile(`could not find block ID|could not read from input file|could not uncompress data|unexpected end of file|corrupt archive`)
	newerRE     = regexp.MustCompile(`unsupported version \(([0-9.]+)\) in file header`)
)

// debianNames are extensions whose package in Debian and in PostgreSQL's own archive is not postgresql-VERSION-NAME with
// dashes; VERSION is put in place of %d.
var debianNames = map[string]string{
	"postgis": "postgresql-%d-postgis-3", "postgis_topology": "postgresql-%d-postgis-3", "postgis_raster": "postgresql-%d-postgis-3",
	"postgis_sfcgal": "postgresql-%d-postgis-3", "postgis_tiger_geocoder": "postgresql-%d-postgis-3", "address_standardizer": "postgresql-%d-postgis-3",
	"vector": "postgresql-%d-pgvector", "pg_cron": "postgresql-%d-cron", "pg_partman": "postgresql-%d-partman", "pg_repack": "postgresql-%d-repack",
	"plpython3u": "postgresql-plpython3-%d", "plperl": "postgresql-plperl-%d", "plperlu": "postgresql-plperl-%d", "pltcl": "postgresql-pltcl-%d",
	"pltclu": "postgresql-pltcl-%d", "rational": "postgresql-%d-pg-rational", "timescaledb": "timescaledb-2-postgresql-%d (of Timescale)",
	"pg_graphql": "pg_graphql (of Supabase)", "citus": "postgresql-%d-citus (of Citus)",
}

// contrib are the extensions of PostgreSQL's own source tree. On Debian they come with the server from version 10 on.
var contrib = strings.Fields(`adminpack amcheck autoinc bloom btree_gin btree_gist citext cube dblink dict_int dict_xsyn earthdistance file_fdw
	fuzzystrmatch hstore insert_username intagg intarray isn lo ltree moddatetime old_snapshot pageinspect pg_buffercache pg_freespacemap pg_logicalinspect
	pg_overexplain pg_prewarm pg_stat_statements pg_surgery pg_trgm pg_visibility pg_walinspect pgcrypto pgrowlocks pgstattuple postgres_fdw refint seg
	sslinfo tablefunc tcn tsm_system_rows tsm_system_time unaccent uuid-ossp xml2`)

// packageOf names the package of an extension, or of its library.
func packageOf(extension string, version int) string {
	name, known := debianNames[extension]
	switch {
	case known && strings.Contains(name, "%d"):
		return fmt.Sprintf(name, version)
	case known:
		return name
	case slices.Contains(contrib, extension):
		return fmt.Sprintf("postgresql-contrib (Debian: postgresql-%d)", version)
	}
	return fmt.Sprintf("postgresql-%d-%s", version, strings.ReplaceAll(extension, "_", "-"))
}

// hint is what can be done about an error that a program reported of a dump; "" if that is not known.
func (b *build) hint(message string) string {
	if m := extensionRE.FindStringSubmatch(message); m != nil {
		name := m[1] + m[2]
		return fmt.Sprintf("the base lacks extension %s: install package %s on the host, or give a base that has it: --from-host=PREFIX, --image, --image-archive",
			name, packageOf(name, major(b.st.Version)))
	}
	if m := libraryRE.FindStringSubmatch(message); m != nil {
		return fmt.Sprintf("the base lacks library %s: install the package that has it, or give a base that has it: --from-host=PREFIX, --image, --image-archive", m[1])
	}
	if cutRE.MatchString(message) {
		return "the dump is cut short or damaged: copy it once more, or make another"
	}
	if newerRE.MatchString(message) {
		return fmt.Sprintf("the dump was made by a pg_dump that is newer than the base's, %s: give a base as new as that, by --from-host=PREFIX, --image or --image-archive; "+
			"or make the dump by pg_dump %d", b.st.Version, major(b.st.Version))
	}
	return ""
}
