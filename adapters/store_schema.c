/* The SQL of the registry's tables. */
#include "adapters/store_schema.h"

#include "core/base/check.h"

/* Ids of tenants are never given twice: running jobs and usage speak of them. Tenant 1 is
 * the one that is there without tenants. A limit that is NULL is the default. */
static const char tenants[] =
    "CREATE TABLE tenants ("
    "  id INTEGER PRIMARY KEY AUTOINCREMENT,"
    "  name TEXT NOT NULL UNIQUE,"
    "  weight INTEGER NOT NULL DEFAULT 1 CHECK (weight > 0),"
    "  requests_per_minute INTEGER, tokens_per_minute INTEGER,"
    "  max_running INTEGER, max_queued INTEGER,"
    "  max_adapters INTEGER, max_adapter_bytes INTEGER, max_virtual_tokens INTEGER,"
    "  is_suspended INTEGER NOT NULL DEFAULT 0,"
    "  created INTEGER NOT NULL) STRICT;"
    "INSERT INTO tenants (id, name, created) VALUES (1, 'default', unixepoch());"
    /* tenant NULL: an administrator's */
    "CREATE TABLE keys ("
    "  id INTEGER PRIMARY KEY AUTOINCREMENT,"
    "  hash BLOB NOT NULL UNIQUE,"
    "  tenant INTEGER REFERENCES tenants ON DELETE CASCADE,"
    "  scope TEXT NOT NULL CHECK (scope IN ('infer', 'manage', 'admin')),"
    "  expires INTEGER,"
    "  created INTEGER NOT NULL,"
    "  revoked INTEGER) STRICT;"
    "CREATE INDEX keys_by_tenant ON keys (tenant);";

/* current NULL: the name was deleted and must stay so, or it only is refused (below). dropped
 * is what may have no version any more; its files stay until the next change, for readers that
 * come late. */
static const char adapters[] =
    "CREATE TABLE adapters ("
    "  tenant INTEGER NOT NULL REFERENCES tenants,"
    "  name TEXT NOT NULL,"
    "  current TEXT,"
    "  is_public INTEGER NOT NULL DEFAULT 0,"
    "  PRIMARY KEY (tenant, name)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE blobs ("
    "  digest TEXT PRIMARY KEY,"
    "  bytes INTEGER NOT NULL) STRICT, WITHOUT ROWID;"
    "CREATE TABLE versions ("
    "  tenant INTEGER NOT NULL,"
    "  name TEXT NOT NULL,"
    "  digest TEXT NOT NULL REFERENCES blobs,"
    "  kind TEXT NOT NULL,"
    "  created INTEGER NOT NULL,"
    "  number INTEGER NOT NULL,"
    "  PRIMARY KEY (tenant, name, digest),"
    "  FOREIGN KEY (tenant, name) REFERENCES adapters) STRICT, WITHOUT ROWID;"
    "CREATE INDEX versions_by_digest ON versions (digest);"
    "CREATE TABLE dropped (digest TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;"
    "CREATE TRIGGER versions_dropped AFTER DELETE ON versions BEGIN"
    "  INSERT OR IGNORE INTO dropped VALUES (OLD.digest); END;";

/* A blob belongs to a tenant. The database is the only truth about names, so what the
 * adapters folder brought is in it, marked. What compiling told (0: not known) and what a
 * blob holds are there without reading any file. */
static const char per_tenant[] =
    "DROP TRIGGER versions_dropped;"
    "DROP INDEX versions_by_digest;"
    "ALTER TABLE versions RENAME TO old_versions;"
    "ALTER TABLE blobs RENAME TO old_blobs;"
    "ALTER TABLE dropped RENAME TO old_dropped;"
    "ALTER TABLE adapters ADD COLUMN is_pinned INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE adapters ADD COLUMN is_from_folder INTEGER NOT NULL DEFAULT 0;"
    "UPDATE adapters SET is_from_folder = 2 WHERE current IS NULL;" /* STORE_OVER_FOLDER */
    "CREATE UNIQUE INDEX adapters_public ON adapters (name) WHERE is_public;"
    "CREATE TABLE blobs ("
    "  tenant INTEGER NOT NULL,"
    "  digest TEXT NOT NULL,"
    "  bytes INTEGER NOT NULL,"
    "  PRIMARY KEY (tenant, digest)) STRICT, WITHOUT ROWID;"
    "INSERT INTO blobs SELECT 1, digest, bytes FROM old_blobs UNION"
    "  SELECT v.tenant, v.digest, b.bytes FROM old_versions v JOIN old_blobs b USING "
    "(digest);"
    "CREATE TABLE versions ("
    "  tenant INTEGER NOT NULL,"
    "  name TEXT NOT NULL,"
    "  digest TEXT NOT NULL,"
    "  kind TEXT NOT NULL,"
    "  base_hint TEXT,"
    "  n_tokens INTEGER NOT NULL DEFAULT 0,"
    "  n_tasks INTEGER NOT NULL DEFAULT 0,"
    "  compile_ms REAL NOT NULL DEFAULT 0,"
    "  created INTEGER NOT NULL,"
    "  number INTEGER NOT NULL,"
    "  PRIMARY KEY (tenant, name, digest),"
    "  FOREIGN KEY (tenant, name) REFERENCES adapters,"
    "  FOREIGN KEY (tenant, digest) REFERENCES blobs) STRICT, WITHOUT ROWID;"
    "INSERT INTO versions (tenant, name, digest, kind, created, number)"
    "  SELECT tenant, name, digest, kind, created, number FROM old_versions;"
    "DROP TABLE old_versions; DROP TABLE old_blobs; DROP TABLE old_dropped;"
    "CREATE INDEX versions_by_digest ON versions (tenant, digest);"
    "CREATE TABLE dropped ("
    "  tenant INTEGER NOT NULL,"
    "  digest TEXT NOT NULL,"
    "  PRIMARY KEY (tenant, digest)) STRICT, WITHOUT ROWID;"
    "INSERT INTO dropped SELECT tenant, digest FROM blobs WHERE NOT EXISTS (SELECT 1 FROM "
    "versions "
    "v"
    "  WHERE v.tenant = blobs.tenant AND v.digest = blobs.digest);"
    "CREATE TRIGGER versions_dropped AFTER DELETE ON versions BEGIN"
    "  INSERT OR IGNORE INTO dropped VALUES (OLD.tenant, OLD.digest); END;"
    /* ids of keys and tenants that are gone stay in here; key 0: none, adapter '': the base
     */
    "CREATE TABLE usage ("
    "  hour INTEGER NOT NULL,"
    "  tenant INTEGER NOT NULL,"
    "  key INTEGER NOT NULL,"
    "  adapter TEXT NOT NULL,"
    "  requests INTEGER NOT NULL,"
    "  prompt_tokens INTEGER NOT NULL,"
    "  cached_tokens INTEGER NOT NULL,"
    "  virtual_tokens INTEGER NOT NULL,"
    "  generated_tokens INTEGER NOT NULL,"
    "  PRIMARY KEY (hour, tenant, key, adapter)) STRICT, WITHOUT ROWID;";

/* Usage stays when its tenant goes, and is told with the name that the tenant had. */
static const char former[] =
    "CREATE TABLE former_tenants ("
    "  id INTEGER PRIMARY KEY,"
    "  name TEXT NOT NULL,"
    "  removed INTEGER NOT NULL) STRICT;"
    "CREATE INDEX former_tenants_by_name ON former_tenants (name);";

/* Why the newest files that the adapters folder has of a name are not in use, and until when
 * (Unix seconds; 0: they change) they are not tried again. A name that has no version is one of
 * the folder (STORE_FROM_FOLDER) with current NULL. Of one daemon's life: found again at boot. */
static const char refusals[] =
    "ALTER TABLE adapters ADD COLUMN refused TEXT;"
    "ALTER TABLE adapters ADD COLUMN refused_until INTEGER NOT NULL DEFAULT 0;";

static const char *const steps[] = {tenants, adapters, per_tenant, former, refusals};

int store_schema_version(void)
{
    return (int)(sizeof steps / sizeof steps[0]);
}

const char *store_schema_step(int i)
{
    CHECK(i >= 0 && i < store_schema_version());
    return steps[i];
}
