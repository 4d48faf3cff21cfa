/* Backups from the command line. */
#include "server/cli_backup.h"

#include <inttypes.h>

#include "adapters/backup.h"
#include "core/base/json_out.h"

int cli_backup(const struct cli_args *a, struct store *s, struct buf *out, struct err *err)
{
    struct backup_stats done;
    if (backup_write(s, a->operand, &done, err) < 0)
        return -1;
    if (!(a->given & CLI_JSON)) {
        buf_printf(out,
                   "%s: the registry and %" PRId64 " versions' files, %" PRId64 " bytes\n",
                   a->operand, done.n_blobs, done.bytes);
        return 0;
    }
    buf_add_str(out, "{\"object\":\"backup\",\"file\":");
    json_out_str(out, a->operand);
    buf_printf(out, ",\"blobs\":%" PRId64 ",\"bytes\":%" PRId64 "}\n", done.n_blobs,
               done.bytes);
    return 0;
}
