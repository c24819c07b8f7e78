package postgres

import (
	"context"
	"fmt"
	"path"
)

// hotSQL lists the catalogs that a backend reads before its first query. Found
// by looking at which files a clone's first connection had copied up, with PostgreSQL 15
// and 18.
const hotSQL = `SELECT pg_catalog.pg_relation_filepath(oid) FROM pg_catalog.pg_class
WHERE relnamespace = 'pg_catalog'::pg_catalog.regnamespace AND relname IN (
	'pg_authid', 'pg_authid_rolname_index', 'pg_authid_oid_index',
	'pg_database', 'pg_database_datname_index', 'pg_database_oid_index', 'pg_db_role_setting_databaseid_rol_index',
	'pg_class', 'pg_class_oid_index', 'pg_attribute', 'pg_attribute_relid_attnum_index', 'pg_type', 'pg_type_oid_index',
	'pg_index', 'pg_index_indexrelid_index', 'pg_namespace', 'pg_am', 'pg_amproc', 'pg_amproc_fam_proc_index',
	'pg_opclass_oid_index')`

// findHot collects what each clone's server opens for writing at its start and
// for its first connection. Once it has been vacuumed, the files do not change.
func (b *build) findHot(ctx context.Context) error {
	files, err := b.query(ctx, b.st.DB, hotSQL)
	if err != nil {
		return fmt.Errorf("find files of catalogs: %w", err)
	}
	for _, f := range append(files, "global/pg_control") {
		b.hot = append(b.hot, path.Join(b.st.DataDir, f))
	}
	return nil
}
