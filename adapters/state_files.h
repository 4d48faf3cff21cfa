/* What is called how in the state folder. */
#ifndef PREFIXD_STATE_FILES_H
#define PREFIXD_STATE_FILES_H

#define STATE_DB "registry.db"
#define STATE_LOCK "lock"                 /* of the daemon that owns it: home.h */
#define STATE_COLLECT_LOCK "collect.lock" /* of who makes a copy: store_snapshot */
#define STATE_BLOBS "blobs"
#define STATE_COMPILED "compiled"
#define STATE_POINTERS "adapters" /* of the oldest daemons: pointers.h */

#endif
