#include "pages.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "guard.h"

static size_t page_size(void) {
    static size_t cached; /* the same value whoever writes it first */
    if (!cached)
        cached = (size_t)sysconf(_SC_PAGESIZE);
    return cached;
}

#define HUGE_BYTES ((size_t)2 << 20)

static void ask_for_huge_pages(unsigned char *base, size_t length) {
#ifdef MADV_HUGEPAGE
    (void)madvise(base, length, MADV_HUGEPAGE); /* only a wish: kernels without huge pages refuse it */
#else
    (void)base, (void)length;
#endif
}

unsigned char *fx_place(size_t length, int protection) {
    /* Take a little more than is needed to have an aligned place in it, and give the ends back. */
    if (length > SIZE_MAX - 2 * HUGE_BYTES) {
        errno = ENOMEM;
        return NULL;
    }
    const size_t room = length + HUGE_BYTES, mask = page_size() - 1;
    unsigned char *place = mmap(NULL, room, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (place == MAP_FAILED)
        return NULL;
    unsigned char *base = (unsigned char *)(((uintptr_t)place + HUGE_BYTES - 1) & ~(uintptr_t)(HUGE_BYTES - 1));
    unsigned char *after = base + ((length + mask) & ~mask);
    if (base > place)
        munmap(place, (size_t)(base - place));
    if (place + room > after)
        munmap(after, (size_t)(place + room - after));
    ask_for_huge_pages(base, length);
    return base;
}

unsigned char *fx_map(int fd, uint64_t size) {
    unsigned char *place = fx_place((size_t)size, PROT_NONE);
    if (!place)
        return NULL;
    unsigned char *map = mmap(place, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    if (map == MAP_FAILED) {
        const int error = errno;
        munmap(place, (size_t)size);
        errno = error;
        return NULL;
    }
    ask_for_huge_pages(map, (size_t)size);
    fx_guard_acquire();
    return map;
}

int fx_write_all(int fd, const unsigned char *bytes, uint64_t start, uint64_t stop) {
    while (start < stop) {
        ssize_t n = pwrite(fd, bytes, (size_t)(stop - start), (off_t)start);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? errno : EIO;
        bytes += n;
        start += (uint64_t)n;
    }
    return 0;
}

void fx_unmap(unsigned char *map, uint64_t size) {
    munmap(map, (size_t)size);
    fx_guard_release();
}

int fx_page_error(int fd, uint64_t start, uint64_t stop) {
    struct stat now;
    if (fstat(fd, &now) != 0)
        return errno;
    if ((uint64_t)now.st_size < stop)
        return EFAULT;
    if (fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)start, (off_t)(stop - start)) != 0 && (errno == ENOSPC || errno == EDQUOT))
        return errno;
    return EIO;
}

int fx_pages_populate(unsigned char *map, uint64_t start, uint64_t stop) {
#ifdef MADV_POPULATE_WRITE
    const uint64_t mask = page_size() - 1;
    const uint64_t low = start & ~mask, high = (stop + mask) & ~mask;
    while (high > low && madvise(map + low, high - low, MADV_POPULATE_WRITE) != 0) {
        if (errno == EINTR || errno == EAGAIN)
            continue;
        return errno == EINVAL ? 0 : errno; /* EINVAL: a kernel that does not know the advice */
    }
#else
    (void)map, (void)start, (void)stop;
#endif
    return 0;
}

int fx_pages_release(unsigned char *map, uint64_t start, uint64_t stop) {
    const uint64_t mask = page_size() - 1;
    const uint64_t low = (start + mask) & ~mask, high = stop & ~mask;
    if (high > low && madvise(map + low, high - low, MADV_DONTNEED) != 0)
        return errno;
    return 0;
}

int fx_start_writeback(int fd, uint64_t start, uint64_t length) {
#ifdef SYNC_FILE_RANGE_WRITE
    if (sync_file_range(fd, (off_t)start, (off_t)length, SYNC_FILE_RANGE_WRITE) != 0)
        return errno;
#else
    (void)fd, (void)start, (void)length;
#endif
    return 0;
}

int fx_reserve(int fd, uint64_t size) {
    while (fallocate(fd, 0, 0, (off_t)size) != 0) {
        if (errno == EINTR)
            continue;
        return errno == ENOSYS ? EOPNOTSUPP : errno;
    }
    return 0;
}

int64_t fx_birth_ns(int fd) {
#ifdef STATX_BTIME
    struct statx info;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_BTIME, &info) == 0 && (info.stx_mask & STATX_BTIME))
        return (int64_t)info.stx_btime.tv_sec * 1000000000 + info.stx_btime.tv_nsec;
#else
    (void)fd;
#endif
    return 0;
}

int fx_file_system(int fd, uint32_t *number) {
    struct statfs info;
    if (fstatfs(fd, &info) != 0)
        return errno;
    *number = (uint32_t)info.f_type;
    return 0;
}
