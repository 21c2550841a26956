/* Facts about the SIGBUS guard that only C can state: `guard_check FACT FILE`. Built and run by test_guard_in_c.py.
 *
 * Exits 0 when the fact holds. A fact whose name begins with "dies" ends by SIGBUS. FILE is made, cut and grown at will. */
#include <errno.h>
#include <fcntl.h>
#include <fenv.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "crc64.h"
#include "guard.h"
#include "pages.h"
#include "writer.h"

#define HOLDS(fact)                                                          \
    do {                                                                     \
        if (!(fact)) {                                                       \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #fact); \
            exit(1);                                                         \
        }                                                                    \
    } while (0)

enum { PAGE = 4096, PAGES = 64, SIZE = PAGE * PAGES };

static const char *path;
static unsigned char data[SIZE];

typedef struct part {
    int fd;
    unsigned char *map;
} part;

static part open_part(void) {
    part made = {open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), NULL};
    HOLDS(made.fd >= 0 && ftruncate(made.fd, SIZE) == 0);
    made.map = fx_map(made.fd, SIZE);
    HOLDS(made.map);
    return made;
}

static void close_part(part *it) {
    fx_unmap(it->map, SIZE);
    close(it->fd);
}

/* One copy into the first page behind the end of the file. */
static void fault_once(const part *it) {
    uint64_t crc = 77;
    HOLDS(ftruncate(it->fd, PAGE) == 0);
    const unsigned char *fault = fx_guard_copy(&crc, it->map + PAGE + 10, data, 1000);
    HOLDS(fault >= it->map + PAGE && fault < it->map + 2 * PAGE && crc == 77);
    HOLDS(ftruncate(it->fd, SIZE) == 0);
    HOLDS(!fx_guard_copy(&crc, it->map + PAGE + 10, data, 1000));
    HOLDS(crc == fx_crc64nvme_extend(77, data, 1000) && memcmp(it->map + PAGE + 10, data, 1000) == 0);
}

/* A fault in a mapping that is not ours, as in a file that numpy has mapped. */
static void fault_elsewhere(void) {
    char name[] = "/tmp/guard-check-XXXXXX";
    int fd = mkstemp(name);
    HOLDS(fd >= 0 && unlink(name) == 0 && ftruncate(fd, PAGE) == 0);
    volatile char *map = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    HOLDS(map != MAP_FAILED && ftruncate(fd, 0) == 0);
    *map = 1;
}

/* ---- the copy ---- */

static void every_offset(void) {
    part it = open_part();
    HOLDS(ftruncate(it.fd, 3 * PAGE) == 0);
    for (int back = 0; back < 2 * PAGE; back += 61) {
        for (size_t length = 1; length < 3 * PAGE; length = length * 2 + 3) {
            uint64_t crc = 5;
            unsigned char *dst = it.map + 3 * PAGE - back;
            const unsigned char *fault = fx_guard_copy(&crc, dst, data, length);
            HOLDS((fault != NULL) == ((size_t)back < length));
            HOLDS(crc == (fault ? 5 : fx_crc64nvme_extend(5, data, length)));
            HOLDS(!fault || (fault >= it.map + 3 * PAGE && fault < dst + length));
        }
    }
    close_part(&it);
}

static void the_control_words_and_the_mask_come_back(void) {
    part it = open_part();
    sigset_t wanted, now;
    sigemptyset(&wanted);
    sigaddset(&wanted, SIGUSR1);
    pthread_sigmask(SIG_SETMASK, &wanted, NULL);
    fesetround(FE_UPWARD);
    for (int i = 0; i < 2000; i++)
        fault_once(&it);
    HOLDS(fegetround() == FE_UPWARD);
    volatile double one = 1.0, three = 3.0;
    HOLDS(one / three > 0.33333333333333331);
    pthread_sigmask(SIG_SETMASK, NULL, &now);
    HOLDS(sigismember(&now, SIGUSR1) && !sigismember(&now, SIGBUS) && !sigismember(&now, SIGTERM));
    close_part(&it);
}

static void on_an_alternate_stack(void) {
    part it = open_part();
    stack_t stack = {.ss_sp = malloc(1 << 16), .ss_size = 1 << 16}, now;
    HOLDS(stack.ss_sp && sigaltstack(&stack, NULL) == 0);
    for (int i = 0; i < 2000; i++)
        fault_once(&it);
    HOLDS(sigaltstack(NULL, &now) == 0 && !(now.ss_flags & SS_ONSTACK));
    stack.ss_flags = SS_DISABLE;
    sigaltstack(&stack, NULL);
    free(stack.ss_sp);
    close_part(&it);
}

static atomic_int working;

enum { STRETCH = SIZE / 4 };

/* Copies all the time into its stretch of a file whose end moves: each copy is whole, or says that it is not. */
static void *copy_on(void *argument) {
    unsigned char *stretch = argument;
    long failed = 0, whole = 0;
    while (failed < 100 || whole < 100) {
        uint64_t crc = 0;
        const unsigned char *fault = fx_guard_copy(&crc, stretch, data, STRETCH - 100);
        HOLDS(crc == (fault ? 0 : fx_crc64nvme_extend(0, data, STRETCH - 100)));
        failed += fault != NULL;
        whole += fault == NULL;
    }
    atomic_fetch_sub(&working, 1);
    return NULL;
}

static void threads_fault_at_once(void) {
    part it = open_part();
    pthread_t threads[4];
    atomic_store(&working, 4);
    for (int i = 0; i < 4; i++)
        HOLDS(pthread_create(&threads[i], NULL, copy_on, it.map + i * STRETCH) == 0);
    for (unsigned at = 0; atomic_load(&working); at++) {
        HOLDS(ftruncate(it.fd, (off_t)(at * 7919 % STRETCH)) == 0 && ftruncate(it.fd, SIZE) == 0);
        sched_yield();
    }
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    close_part(&it);
}

static void a_forked_child_keeps_the_guard(void) {
    part it = open_part();
    int status;
    pid_t child = fork();
    if (child == 0) {
        fault_once(&it);
        close_part(&it);
        it = open_part();
        fault_once(&it);
        close_part(&it);
        exit(0);
    }
    HOLDS(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    fault_once(&it);
    close_part(&it);
}

/* ---- other handlers ---- */

static atomic_int calls;
static struct sigaction chained;

static void count(int number) {
    HOLDS(number == SIGBUS);
    atomic_fetch_add(&calls, 1);
}

static void count_and_look(int number, siginfo_t *info, void *context) {
    HOLDS(info->si_signo == SIGBUS && context);
    sigset_t now;
    pthread_sigmask(SIG_SETMASK, NULL, &now);
    HOLDS(sigismember(&now, SIGBUS) && sigismember(&now, SIGUSR2));
    count(number);
}

static void count_and_call(int number, siginfo_t *info, void *context) {
    count(number);
    HOLDS(chained.sa_flags & SA_SIGINFO);
    chained.sa_sigaction(number, info, context);
}

/* As Python's faulthandler does. */
static void count_and_raise(int number) {
    count(number);
    sigaction(SIGBUS, &chained, NULL);
    raise(number);
}

static void handle(void (*handler)(int), void (*action)(int, siginfo_t *, void *), int flags) {
    struct sigaction wanted;
    memset(&wanted, 0, sizeof wanted);
    sigemptyset(&wanted.sa_mask);
    sigaddset(&wanted.sa_mask, SIGUSR2);
    wanted.sa_flags = flags;
    if (action)
        wanted.sa_sigaction = action;
    else
        wanted.sa_handler = handler;
    HOLDS(sigaction(SIGBUS, &wanted, &chained) == 0);
}

static int in_place(void (*handler)(int)) {
    struct sigaction now;
    return sigaction(SIGBUS, NULL, &now) == 0 && !(now.sa_flags & SA_SIGINFO) && now.sa_handler == handler;
}

static void a_handler_from_before_gets_what_is_not_ours(void) {
    handle(count, NULL, 0);
    part it = open_part();
    fault_once(&it);
    HOLDS(calls == 0);
    HOLDS(kill(getpid(), SIGBUS) == 0 && calls == 1);
    HOLDS(raise(SIGBUS) == 0 && calls == 2);
    fault_once(&it);
    close_part(&it);
    HOLDS(in_place(count));
}

static void a_handler_from_before_gets_its_arguments_and_its_mask(void) {
    handle(NULL, count_and_look, SA_SIGINFO);
    part it = open_part();
    HOLDS(raise(SIGBUS) == 0 && raise(SIGBUS) == 0 && calls == 2);
    sigset_t now;
    pthread_sigmask(SIG_SETMASK, NULL, &now);
    HOLDS(!sigismember(&now, SIGBUS) && !sigismember(&now, SIGUSR2));
    fault_once(&it);
    close_part(&it);
}

static void dies_at_the_second_of_a_handler_for_one(void) {
    handle(count, NULL, SA_RESETHAND);
    part it = open_part();
    HOLDS(raise(SIGBUS) == 0 && calls == 1 && in_place(SIG_DFL));
    close_part(&it);
    raise(SIGBUS);
}

static void an_ignored_signal_stays_ignored(void) {
    handle(SIG_IGN, NULL, 0);
    part it = open_part();
    HOLDS(raise(SIGBUS) == 0);
    fault_once(&it);
    close_part(&it);
    HOLDS(in_place(SIG_IGN));
}

static void dies_of_a_fault_elsewhere_though_ignored(void) {
    handle(SIG_IGN, NULL, 0);
    open_part();
    fault_elsewhere();
}

static void dies_of_a_fault_elsewhere(void) {
    part it = open_part();
    fault_once(&it);
    fault_elsewhere();
}

static void dies_of_a_signal_sent(void) {
    part it = open_part();
    fault_once(&it);
    kill(getpid(), SIGBUS);
}

static void dies_of_a_bad_source(void) {
    part it = open_part();
    uint64_t crc = 0;
    unsigned char *source = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, it.fd, 0);
    HOLDS(source != MAP_FAILED && ftruncate(it.fd, 0) == 0);
    fx_guard_copy(&crc, data, source, 100);
}

static void a_later_handler_that_calls_ours_works(void) {
    part it = open_part();
    handle(NULL, count_and_call, SA_SIGINFO);
    HOLDS(!fx_guard_in_front());
    fault_once(&it);
    fault_once(&it); /* the signal is not left blocked, though the other handler is of the kind that blocks it */
    HOLDS(calls == 2);
    part other = {it.fd, fx_map(it.fd, SIZE)};
    HOLDS(other.map && !fx_guard_in_front()); /* nor replaced */
    fault_once(&other);
    fx_unmap(other.map, SIZE);
    close_part(&it);
    HOLDS(!fx_guard_in_front());
    HOLDS(sigaction(SIGBUS, &chained, NULL) == 0 && fx_guard_in_front());
    it = open_part();
    fault_once(&it);
    close_part(&it);
    HOLDS(in_place(SIG_DFL));
}

static void a_later_handler_that_raises_again_works(void) {
    part it = open_part();
    handle(count_and_raise, NULL, SA_NODEFER);
    fault_once(&it);
    HOLDS(calls == 1 && fx_guard_in_front());
    fault_once(&it);
    HOLDS(calls == 1);
    close_part(&it);
}

static void the_next_mapping_finds_a_chain_that_was_cut(void) {
    handle(count, NULL, 0);
    part it = open_part();
    HOLDS(fx_guard_in_front());
    handle(count, NULL, 0); /* the one from before, put back */
    HOLDS(!fx_guard_in_front());
    unsigned char *more = fx_map(it.fd, SIZE);
    HOLDS(fx_guard_in_front());
    handle(SIG_DFL, NULL, 0);
    unsigned char *third = fx_map(it.fd, SIZE);
    HOLDS(fx_guard_in_front());
    fault_once(&it);
    fx_unmap(third, SIZE);
    fx_unmap(more, SIZE);
    close_part(&it);
    HOLDS(in_place(SIG_DFL) && calls == 0);
}

static void *copy_until_told(void *argument) {
    const part *it = argument;
    while (atomic_load(&working)) {
        uint64_t crc = 0;
        HOLDS(!fx_guard_copy(&crc, it->map, data, SIZE));
    }
    return NULL;
}

static void a_signal_that_comes_during_a_copy_is_not_lost(void) {
    handle(count, NULL, 0);
    part it = open_part();
    pthread_t thread;
    atomic_store(&working, 1);
    HOLDS(pthread_create(&thread, NULL, copy_until_told, &it) == 0);
    const time_t deadline = time(NULL) + 60;
    for (int sent = 1; sent <= 100; sent++) {
        HOLDS(pthread_kill(thread, SIGBUS) == 0);
        while (atomic_load(&calls) < sent && time(NULL) < deadline)
            sched_yield();
        HOLDS(atomic_load(&calls) == sent);
    }
    atomic_store(&working, 0);
    pthread_join(thread, NULL);
    close_part(&it);
}

/* ---- the writer over it ---- */

static void a_writer_marks_no_chunk_after_a_fault(void) {
    part it = open_part();
    unsigned char bits[PAGES / 4 / 8];
    uint64_t crcs[PAGES / 4];
    memset(bits, 0, sizeof bits);
    fx_ledger ledger = {.size = SIZE, .chunk_size = 4 * PAGE, .count = PAGES / 4, .bits = bits, .crcs = crcs};
    fx_writer writer;
    memset(&writer, 0, sizeof writer);
    writer.ledger = &ledger, writer.map = it.map, writer.fd = it.fd;
    size_t taken;
    fx_writer_begin(&writer, 0, SIZE, 0);
    HOLDS(fx_writer_put(&writer, data, 10 * PAGE, &taken) == 0 && taken == 10 * PAGE && ledger.done == 2);
    HOLDS(ftruncate(it.fd, 8 * PAGE) == 0);
    HOLDS(fx_writer_put(&writer, data + 10 * PAGE, 10 * PAGE, &taken) == EFAULT && taken == 0);
    HOLDS(writer.pos == 10 * PAGE && writer.crc == fx_crc64nvme_extend(0, data + 8 * PAGE, 2 * PAGE));
    HOLDS(ftruncate(it.fd, SIZE) == 0); /* the pages are there again, but what comes now is not what belongs there */
    HOLDS(fx_writer_put(&writer, data + 20 * PAGE, 10 * PAGE, &taken) == EFAULT && taken == 0 && ledger.done == 2);
    fx_writer_begin(&writer, 8 * PAGE, SIZE, 0);
    HOLDS(fx_writer_put(&writer, data + 8 * PAGE, SIZE - 8 * PAGE, &taken) == 0 && ledger.done == ledger.count);
    HOLDS(fx_writer_flush(&writer) == 0);
    close_part(&it);
}

#define FACT(name) {#name, name}
static const struct {
    const char *name;
    void (*run)(void);
} facts[] = {
    FACT(every_offset),
    FACT(the_control_words_and_the_mask_come_back),
    FACT(on_an_alternate_stack),
    FACT(threads_fault_at_once),
    FACT(a_forked_child_keeps_the_guard),
    FACT(a_handler_from_before_gets_what_is_not_ours),
    FACT(a_handler_from_before_gets_its_arguments_and_its_mask),
    FACT(dies_at_the_second_of_a_handler_for_one),
    FACT(an_ignored_signal_stays_ignored),
    FACT(dies_of_a_fault_elsewhere_though_ignored),
    FACT(dies_of_a_fault_elsewhere),
    FACT(dies_of_a_signal_sent),
    FACT(dies_of_a_bad_source),
    FACT(a_later_handler_that_calls_ours_works),
    FACT(a_later_handler_that_raises_again_works),
    FACT(the_next_mapping_finds_a_chain_that_was_cut),
    FACT(a_signal_that_comes_during_a_copy_is_not_lost),
    FACT(a_writer_marks_no_chunk_after_a_fault),
};

int main(int argc, char **argv) {
    HOLDS(argc == 3 && sysconf(_SC_PAGESIZE) == PAGE);
    path = argv[2];
    for (size_t i = 0; i < SIZE; i++)
        data[i] = (unsigned char)(i * 2654435761u >> 13);
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++) {
        if (strcmp(facts[i].name, argv[1]) == 0) {
            facts[i].run();
            return 0;
        }
    }
    fprintf(stderr, "no such fact: %s\n", argv[1]);
    return 2;
}
