#include "whole_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crc64.h"

static int write_all(int fd, const unsigned char *bytes, size_t length)
{
    while (length > 0) {
        ssize_t written = write(fd, bytes, length);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return errno;
        if (written == 0)
            return EIO;
        bytes += written;
        length -= (size_t)written;
    }
    return 0;
}

static struct timespec time_of(int64_t ns)
{
    struct timespec time = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
    if (time.tv_nsec < 0) {
        time.tv_sec -= 1;
        time.tv_nsec += 1000000000;
    }
    return time;
}

static int date(int fd, int64_t mtime_ns)
{
    struct timespec times[2] = {time_of(mtime_ns), time_of(mtime_ns)};
    return futimens(fd, times) == 0 || errno == EPERM ? 0 : errno;
}

int fx_date_named(int directory, const char *name, int64_t mtime_ns)
{
    struct timespec times[2] = {time_of(mtime_ns), time_of(mtime_ns)};
    return utimensat(directory, name, times, AT_SYMLINK_NOFOLLOW) == 0 ? 0 : errno;
}

/* Whether a descriptor's file is only to be named by way of /proc: before Linux 6.10 AT_EMPTY_PATH is for the privileged. */
static atomic_int by_proc;

static int give_name(int fd, int directory, const char *name)
{
    char path[32];
    if (!atomic_load_explicit(&by_proc, memory_order_relaxed)) {
        if (linkat(fd, "", directory, name, AT_EMPTY_PATH) == 0)
            return 0;
        if (errno != ENOENT)
            return errno;
    }
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (linkat(AT_FDCWD, path, directory, name, AT_SYMLINK_FOLLOW) != 0)
        return errno;
    atomic_store_explicit(&by_proc, 1, memory_order_relaxed);
    return 0;
}

/* Returns 0 where nothing was done: the file system has no files without a name, or cannot give them one. */
static int store_unnamed(fx_whole_file *file)
{
    int fd = openat(file->directory, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666);
    if (fd < 0)
        return 0;
    const char *name = file->name;
    file->step = FX_WHOLE_WRITE;
    file->error = write_all(fd, file->bytes, file->length);
    if (file->error == 0 && file->dated)
        file->error = date(fd, file->mtime_ns);
    if (file->error != 0) {
        close(fd);
        return 1;
    }
    int error = give_name(fd, file->directory, name);
    if (error == EEXIST) {
        name = file->working;
        file->step = FX_WHOLE_RENAME;
        file->error = EEXIST;
        error = give_name(fd, file->directory, name);
        if (error == EEXIST) /* somebody else's, just now */
            file->step = FX_WHOLE_CREATE;
    } else if (error == 0) {
        file->step = FX_WHOLE_DONE;
    }
    if (close(fd) != 0 && errno != EINTR && error == 0) {
        file->step = FX_WHOLE_WRITE;
        file->error = errno;
        unlinkat(file->directory, name, 0);
    }
    return error == 0 || error == EEXIST;
}

static void store_named(fx_whole_file *file)
{
    file->step = FX_WHOLE_CREATE;
    int fd = openat(file->directory, file->working, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd < 0) {
        file->error = errno;
        return;
    }
    file->step = FX_WHOLE_WRITE;
    file->error = write_all(fd, file->bytes, file->length);
    if (file->error == 0 && file->dated)
        file->error = date(fd, file->mtime_ns);
    if (close(fd) != 0 && errno != EINTR && file->error == 0)
        file->error = errno; /* as NFS tells of a write */
    if (file->error == 0) {
        file->step = FX_WHOLE_RENAME;
        if (renameat2(file->directory, file->working, file->directory, file->name, RENAME_NOREPLACE) == 0) {
            file->step = FX_WHOLE_DONE;
            return;
        }
        file->error = errno == ENOSYS ? EINVAL : errno;
        if (file->error == EEXIST || file->error == EINVAL)
            return;
    }
    unlinkat(file->directory, file->working, 0);
}

void fx_whole_file_store(fx_whole_file *file, int unnamed, int looks)
{
    file->crc = fx_crc64nvme_extend(0, file->bytes, file->length);
    if (unnamed && looks)
        unnamed = faccessat(file->directory, file->working, F_OK, AT_SYMLINK_NOFOLLOW) != 0 && errno == ENOENT;
    if (unnamed && store_unnamed(file))
        return;
    store_named(file);
}

int fx_has_ending(int fd, const char *ending)
{
    size_t length = strlen(ending);
    struct dirent *entry;
    int own = dup(fd);
    DIR *directory = own >= 0 ? fdopendir(own) : NULL;
    if (directory == NULL) {
        if (own >= 0)
            close(own);
        return -1;
    }
    rewinddir(directory);
    int has = 0;
    while (!has && (errno = 0, entry = readdir(directory)) != NULL) {
        size_t all = strlen(entry->d_name);
        has = all >= length && memcmp(entry->d_name + all - length, ending, length) == 0;
    }
    if (!has && errno != 0)
        has = -1;
    closedir(directory);
    return has;
}

int fx_sync_file_system(int fd)
{
    return syncfs(fd) == 0 ? 0 : errno;
}
