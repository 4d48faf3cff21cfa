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

/* current NULL: the name was deleted and must stay so. dropped is what may have no version
 * any more; its files stay until the next change, for readers that come late. */
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

static const char *const steps[] = {tenants, adapters};

int store_schema_version(void)
{
    return (int)(sizeof steps / sizeof steps[0]);
}

const char *store_schema_step(int i)
{
    CHECK(i >= 0 && i < store_schema_version());
    return steps[i];
}
