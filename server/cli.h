/* The commands beside the daemon: `prefixd tenant`, `prefixd key`, `prefixd backup`.
 *
 * They work on the state folder, whether or not a daemon serves from it. A command answers
 * on stdout, or says in one line on stderr what is wrong and what is accepted.
 *
 * Thread: the only one.
 *
 *     if (cli_is_command(argc, argv)) return cli_run(argc, argv);
 */
#ifndef PREFIXD_CLI_H
#define PREFIXD_CLI_H

#include <stdbool.h>

bool cli_is_command(int argc, char **argv);
int cli_run(int argc, char **argv); /* the exit status */

#endif
