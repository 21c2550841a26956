#include "guard.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

#include "crc64.h"

/* The C library allocates a thread's copy of an ordinary thread-local of a loaded library at its first use, which may be in the
 * handler. This model has it from the start; musl has it always, and not this model. */
#ifdef __GLIBC__
#define FX_SIGNAL_SAFE __attribute__((tls_model("initial-exec")))
#else
#define FX_SIGNAL_SAFE
#endif

typedef struct fx_region {
    sigjmp_buf back;
    uintptr_t low, high; /* the pages of the destination */
    const unsigned char *volatile fault;
    volatile sig_atomic_t raised; /* a SIGBUS of this process's own came meanwhile */
} fx_region;

static _Thread_local fx_region *volatile inside FX_SIGNAL_SAFE; /* the region that the thread is in, or NULL */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static uint64_t mappings; /* alive; under the lock */
static uintptr_t page_mask;

/* What was there before; the handler reads the one, a change fills the other. */
static struct sigaction befores[2];
static _Atomic int before_at;

/* ---- The handler ---- */

static void set_default(int number) {
    struct sigaction none;
    memset(&none, 0, sizeof none);
    none.sa_handler = SIG_DFL;
    sigemptyset(&none.sa_mask);
    sigaction(number, &none, NULL);
}

/* Calls a handler with the signals blocked that it asked for. */
static void call(const struct sigaction *before, int number, siginfo_t *info, void *context) {
    sigset_t blocked = before->sa_mask, now;
    if (!(before->sa_flags & SA_NODEFER))
        sigaddset(&blocked, number);
    pthread_sigmask(SIG_BLOCK, &blocked, &now);
    if (before->sa_flags & SA_SIGINFO)
        before->sa_sigaction(number, info, context);
    else
        before->sa_handler(number);
    pthread_sigmask(SIG_SETMASK, &now, NULL);
}

/* A signal that is not ours: does what would have been done without us. */
static void pass_on(int number, siginfo_t *info, void *context) {
    const struct sigaction before = befores[atomic_load_explicit(&before_at, memory_order_acquire)];
    const int faulted = info->si_code > 0; /* the instruction is executed again when the handler returns */
    const int plain = !(before.sa_flags & SA_SIGINFO);
    if (plain && before.sa_handler == SIG_IGN && !faulted)
        return;
    if (plain && (before.sa_handler == SIG_DFL || before.sa_handler == SIG_IGN)) {
        set_default(number); /* the kernel does not let a fault be ignored */
        if (!faulted)
            raise(number);
        return;
    }
    if (before.sa_flags & SA_RESETHAND)
        set_default(number);
    call(&before, number, info, context);
}

/* The kernel gives a handler fresh control words; a jump out of it leaves them so, a return would not. */
static void restore_float_control(const ucontext_t *context) {
#if defined(__x86_64__) && defined(__GLIBC__)
    if (context->uc_mcontext.fpregs) {
        const uint32_t mxcsr = context->uc_mcontext.fpregs->mxcsr;
        const uint16_t control = context->uc_mcontext.fpregs->cwd;
        __asm__ volatile("ldmxcsr %0\n\tfldcw %1" : : "m"(mxcsr), "m"(control));
    }
#else
    (void)context;
#endif
}

static int is_ours(const fx_region *region, const siginfo_t *info) {
    const uintptr_t at = (uintptr_t)info->si_addr;
    const int page_failed = info->si_code == BUS_ADRERR || info->si_code == BUS_OBJERR || info->si_code == BUS_MCEERR_AR;
    return page_failed && at >= region->low && at < region->high;
}

static void on_sigbus(int number, siginfo_t *info, void *context) {
    const int error = errno;
    fx_region *region = inside;
    if (region && is_ours(region, info)) {
        region->fault = info->si_addr;
        inside = NULL;
        restore_float_control(context);
        /* A handler that passed the signal on to us may have blocked more than we do. */
        pthread_sigmask(SIG_SETMASK, &((const ucontext_t *)context)->uc_sigmask, NULL);
        siglongjmp(region->back, 1);
    }
    /* A handler before ours that is done with a fault raises the signal again, without the address, and returns: then the fault itself
     * comes again, to us. If none comes, the signal was meant and is raised at the region's end. */
    if (region && info->si_code == SI_TKILL && info->si_pid == getpid())
        region->raised = 1;
    else
        pass_on(number, info, context);
    errno = error;
}

/* ---- In place, and out of the way ---- */

static void hold(void) { pthread_mutex_lock(&lock); }
static void let_go(void) { pthread_mutex_unlock(&lock); }

static void prepare(void) {
    page_mask = (uintptr_t)sysconf(_SC_PAGESIZE) - 1;
    pthread_atfork(hold, let_go, let_go); /* a child never inherits the lock held */
}

static int is_guard(const struct sigaction *action) {
    return (action->sa_flags & SA_SIGINFO) && action->sa_sigaction == on_sigbus;
}

static int same_handler(const struct sigaction *a, const struct sigaction *b) {
    if ((a->sa_flags ^ b->sa_flags) & SA_SIGINFO)
        return 0;
    return a->sa_flags & SA_SIGINFO ? a->sa_sigaction == b->sa_sigaction : a->sa_handler == b->sa_handler;
}

/* Under the lock. Puts the handler in front of what is there, unless that may have ours behind it: it came after ours, and is not what
 * was there before ours (which somebody put back, as faulthandler.disable() does). */
static void install(int chained) {
    struct sigaction now, guard;
    sigaction(SIGBUS, NULL, &now);
    const int handled = (now.sa_flags & SA_SIGINFO) || (now.sa_handler != SIG_DFL && now.sa_handler != SIG_IGN);
    const int at = atomic_load_explicit(&before_at, memory_order_relaxed);
    if (is_guard(&now) || (chained && handled && !same_handler(&now, &befores[at])))
        return;
    befores[1 - at] = now;
    atomic_store_explicit(&before_at, 1 - at, memory_order_release);
    memset(&guard, 0, sizeof guard);
    guard.sa_sigaction = on_sigbus;
    guard.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigemptyset(&guard.sa_mask);
    sigaction(SIGBUS, &guard, NULL);
}

static int installed; /* and not taken back since; under the lock */

void fx_guard_acquire(void) {
    pthread_once(&once, prepare);
    hold();
    mappings += 1;
    install(installed);
    installed = 1;
    let_go();
}

void fx_guard_release(void) {
    hold();
    mappings -= 1;
    if (!mappings && fx_guard_in_front()) {
        sigaction(SIGBUS, &befores[atomic_load_explicit(&before_at, memory_order_relaxed)], NULL);
        installed = 0;
    }
    let_go();
}

int fx_guard_in_front(void) {
    struct sigaction now;
    return sigaction(SIGBUS, NULL, &now) == 0 && is_guard(&now);
}

/* ---- The region ---- */

const unsigned char *fx_guard_copy(uint64_t *crc, unsigned char *dst, const unsigned char *src, size_t length) {
    fx_region region;
    region.low = (uintptr_t)dst & ~page_mask;
    region.high = ((uintptr_t)dst + length + page_mask) & ~page_mask;
    region.fault = NULL;
    region.raised = 0;
    if (sigsetjmp(region.back, 0))
        return region.fault;
    inside = &region;
    atomic_signal_fence(memory_order_seq_cst);
    const uint64_t extended = fx_crc64nvme_copy(*crc, dst, src, length);
    atomic_signal_fence(memory_order_seq_cst);
    inside = NULL;
    *crc = extended;
    if (region.raised)
        raise(SIGBUS);
    return NULL;
}
