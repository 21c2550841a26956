/* Pages of a shared file mapping: bring them in a stretch at a time, give them back when they are finished.
 *
 * All functions return 0 or an errno value and are safe without the interpreter's lock. Offsets and lengths are in bytes of the
 * mapping and need no alignment; `map` is page-aligned (as mmap returns it).
 */
#ifndef FX_PAGES_H
#define FX_PAGES_H

#include <stddef.h>
#include <stdint.h>

/* Returns `length` bytes of private memory at a huge page's alignment, in huge pages where there are any; NULL with errno set on failure.
 * munmap(2) gives it back. */
unsigned char *fx_place(size_t length, int protection);

/* Writes bytes to [start, stop) of a file, however many calls that takes. */
int fx_write_all(int fd, const unsigned char *bytes, uint64_t start, uint64_t stop);

/* Maps the first `size` bytes of a file, shared and writable, at a huge page's alignment, and asks for huge pages: on ext4 (Linux 6.16) and
 * XFS a window then comes in with one fault instead of 512, and populating a GiB costs 0.26 s of CPU instead of 1.2 s. Returns NULL
 * and sets errno on failure. A SIGBUS guard is in place while it lives (guard.h). */
unsigned char *fx_map(int fd, uint64_t size);

/* Undoes fx_map. */
void fx_unmap(unsigned char *map, uint64_t size);

/* Returns why pages of [start, stop) of a mapped file could not be brought in: EFAULT when the file ends before `stop` (somebody truncated
 * it), ENOSPC or EDQUOT when it has a hole there and no space to fill it, else EIO. A hole that can be filled is. */
int fx_page_error(int fd, uint64_t start, uint64_t stop);

/* Makes the pages of [start, stop) present and writable in one call (MADV_POPULATE_WRITE, Linux 5.14). Kernels without it
 * fault page by page later: that is not an error. ENOSPC or EIO of the file system come back as EFAULT, ENOMEM or EIO. */
int fx_pages_populate(unsigned char *map, uint64_t start, uint64_t stop);

/* Drops the whole pages inside [start, stop) from this process's page tables. They stay in the page cache, dirty ones too, so
 * nothing is lost; resident memory falls. */
int fx_pages_release(unsigned char *map, uint64_t start, uint64_t stop);

/* Asks the kernel to begin writing back [start, start + length) of a file without waiting (sync_file_range(2)); promises nothing. */
int fx_start_writeback(int fd, uint64_t start, uint64_t length);

/* Reserves the first `size` bytes of a file for real (fallocate(2)) and makes it that long. Returns 0, EOPNOTSUPP where the file system
 * cannot reserve, or another errno value. */
int fx_reserve(int fd, uint64_t size);

/* Returns when the file was made, in nanoseconds since the epoch (statx(2), Linux 4.11), or 0 where the file system does not say. With the
 * inode's number it tells a file from a later one that got the number again. */
int64_t fx_birth_ns(int fd);

/* Stores the number of the file system that a file or directory lies on, as statfs(2) lists them; a descriptor of O_PATH will do. */
int fx_file_system(int fd, uint32_t *number);

#endif
