#include "whole_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
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

static int date(int fd, int64_t mtime_ns)
{
    struct timespec both = {.tv_sec = mtime_ns / 1000000000, .tv_nsec = mtime_ns % 1000000000};
    if (both.tv_nsec < 0) {
        both.tv_sec -= 1;
        both.tv_nsec += 1000000000;
    }
    struct timespec times[2] = {both, both};
    return futimens(fd, times) == 0 || errno == EPERM ? 0 : errno;
}

void fx_whole_file_store(fx_whole_file *file)
{
    file->crc = fx_crc64nvme_extend(0, file->bytes, file->length);
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

int fx_sync_file_system(int fd)
{
    return syncfs(fd) == 0 ? 0 : errno;
}
