/* A small file written in one go: all its bytes into a file without a name, which then gets its own (open(2), O_TMPFILE; link(2)). Where
 * there are no such files it is written under a working name, then renamed.
 *
 * Names are single components, relative to a directory's descriptor (O_PATH will do): no path is looked up twice, and nothing that stands
 * under either name is followed if it is a symbolic link. Safe without the interpreter's lock; any number of threads at once, for
 * different names.
 */
#ifndef FX_WHOLE_FILE_H
#define FX_WHOLE_FILE_H

#include <stddef.h>
#include <stdint.h>

/* What was being done when an error came. */
enum fx_whole_step { FX_WHOLE_DONE = 0, FX_WHOLE_CREATE = 1, FX_WHOLE_WRITE = 2, FX_WHOLE_RENAME = 3 };

typedef struct fx_whole_file {
    int directory;
    const char *working; /* the name of what cannot have its own yet; must not be there */
    const char *name;    /* its own; what is there stays */
    const unsigned char *bytes;
    size_t length;
    int dated; /* nonzero: the file gets the modification time below */
    int64_t mtime_ns;
    /* Results. */
    int step;     /* of enum fx_whole_step: where the error came */
    int error;    /* an errno value, or 0 */
    uint64_t crc; /* CRC-64/NVME of the bytes */
} fx_whole_file;

/* Writes a file and gives it its name, `unnamed` until then if that can be; four system calls, five with a date. Where the working name is taken
 * nothing is done (error EEXIST at FX_WHOLE_CREATE); one that gets by without a working name `looks` for that only if told to, which costs as much
 * as a file's date and its end together: the file system seeks it in the directory. Where the name is taken (error EEXIST at FX_WHOLE_RENAME), or cannot
 * be given without replacing what may be there (EINVAL there), the file is complete under its working name. After any other error nothing of
 * it is left. Syncs nothing. */
void fx_whole_file_store(fx_whole_file *file, int unnamed, int looks);

/* Gives a file that has its name a modification time, in nanoseconds since the epoch. Returns 0 or an errno value. */
int fx_date_named(int directory, const char *name, int64_t mtime_ns);

/* Whether a directory, by a descriptor that may read it, has a name with an ending: 1 or 0, or -1 where it cannot be read. Moves the descriptor's
 * position. */
int fx_has_ending(int fd, const char *ending);

/* Has the disk take all that was written to the file system of a descriptor, which is not of O_PATH (syncfs(2)). Returns 0 or an errno
 * value: since Linux 5.8 also for what failed to be written before. */
int fx_sync_file_system(int fd);

#endif
