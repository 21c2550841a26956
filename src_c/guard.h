/* The guard: a page of a shared file mapping that cannot be brought in is an error value and not the end of the process.
 *
 * The kernel raises SIGBUS in the thread that touches a mapped page behind the file's end (somebody truncated it), a page whose disk
 * fails, or a page for which a full file system has no block. `fx_guard_copy` is the only place that touches a mapping, so it is the
 * only guarded region.
 *
 * How it works
 *   The region notes in a thread-local where it copies to and, by sigsetjmp(3) without the signal mask (no system call), where to go
 *   on. The handler jumps back there if the thread is inside a region, the signal comes from the kernel, and the address is of the
 *   region's destination. The jump stays inside this file and the CRC kernels, which hold no lock and allocate nothing; it passes no
 *   frame of the interpreter or of libcurl. The signal mask and the floating-point control words of the interrupted code come back.
 *
 *   The other way would be to map a page of zeros over the one that failed and to let the copy run to its end. It was not taken: the
 *   handler would change the address space that other threads use (and race with munmap), the bytes of other writers of that page
 *   would vanish as well, so that each of them had to look at a flag before each bit, every further page would take a signal of its
 *   own, and mmap(2) itself can fail there. The jump costs the same few nanoseconds a slice, and what failed is known at once.
 *
 * Other handlers
 *   Any other SIGBUS (sent by kill(2), from somebody else's mapping, from a buffer that is copied) goes to the handler that was there
 *   before, as the kernel would have called it; where there was none, the process dies of it. The handler is installed when the first
 *   mapping comes to life and taken back with the last one, if it is still in front. A handler that is installed later and calls ours,
 *   or puts ours back and raises the signal again (Python's faulthandler), works. One that is in front of ours is never replaced:
 *   nobody can tell whether it passes signals on, and one that does not gets the fault of a copy again and again.
 *
 * All functions may be called by any thread, with or without the interpreter's lock. A forked child keeps the guard.
 */
#ifndef FX_GUARD_H
#define FX_GUARD_H

#include <stddef.h>
#include <stdint.h>

/* One more mapping lives, or one less: installs the handler where it is not in place, and takes it back after the last. */
void fx_guard_acquire(void);
void fx_guard_release(void);

/* Returns 1 when a SIGBUS comes to the guard first. One system call. */
int fx_guard_in_front(void);

/* Copies src[0:length] to `dst`, which lies in a mapping, and extends *crc (CRC-64/NVME) by it. Returns NULL; or, when a page of the
 * destination could not be brought in, its address or one inside it. *crc is unchanged then, and what dst holds is undefined. */
const unsigned char *fx_guard_copy(uint64_t *crc, unsigned char *dst, const unsigned char *src, size_t length);

#endif
