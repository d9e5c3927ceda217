/* Stands between a server and the kernel (LD_PRELOAD), to let disks, clocks and look-ups of hosts fail as a test
 * decides.
 *
 *   CHAOS_CONTROL   a file that holds `struct control`; the test changes it while the server runs
 *   CHAOS_FOLDER    only files below this folder are touched
 *   CHAOS_JOURNAL   every completed sync is appended here, with its time; with CHAOS_RECORD=1 every write, too,
 *                   so that the test can rebuild what a power cut would have left
 *
 * Renames and removals count as durable at once: only contents of files are lost in a simulated power cut.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct control {
    volatile int64_t clock_s;    /* added to the wall clock */
    volatile int32_t full;       /* files cannot grow: ENOSPC */
    volatile int32_t write_error;/* errno of every write, 0: none */
    volatile int32_t sync_error; /* errno of every sync, 0: none */
    volatile int32_t read_error; /* errno of every read, 0: none */
    volatile int32_t hold_sync;  /* syncs wait */
    volatile int32_t held;       /* how many wait */
    volatile int32_t hold_names; /* look-ups of hosts wait, and fail then */
    volatile int32_t names_held; /* how many wait */
};

struct record { char op; char pad[3]; int32_t file; int64_t a; int64_t b; };

#define FILES 65536
static struct control none, *control = &none;
static char folder[4096];
static size_t folder_size;
static int journal = -1, recording;
static int64_t records;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int32_t file_of[FILES]; /* by descriptor, 0: not watched */
static struct { dev_t dev; ino_t ino; char *path; } inodes[4096]; /* a path that got another inode is another file */
static int32_t files;

#define REAL(name) ((__typeof__(&name))real(#name, &real_##name))
static void *real(const char *name, void **kept) {
    if (!*kept) *kept = dlsym(RTLD_NEXT, name);
    return *kept;
}
#define KEEP(name) static void *real_##name
KEEP(open); KEEP(open64); KEEP(openat); KEEP(openat64); KEEP(close); KEEP(write); KEEP(pwrite); KEEP(pwrite64);
KEEP(pread); KEEP(pread64); KEEP(read); KEEP(ftruncate); KEEP(ftruncate64); KEEP(fsync); KEEP(fdatasync);
KEEP(clock_gettime); KEEP(gettimeofday); KEEP(time); KEEP(getaddrinfo);

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("CHAOS_CONTROL");
    if (path) {
        int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC);
        if (fd >= 0) {
            void *page = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
            if (page != MAP_FAILED) control = page;
            syscall(SYS_close, fd);
        }
    }
    if ((path = getenv("CHAOS_FOLDER"))) {
        strncpy(folder, path, sizeof folder - 1);
        folder_size = strlen(folder);
    }
    if ((path = getenv("CHAOS_JOURNAL")))
        journal = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    recording = (path = getenv("CHAOS_RECORD")) && *path == '1';
}

static int64_t now_ns(void) {
    struct timespec t;
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* With `lock` held: one record and its data. */
static void note(char op, int32_t file, int64_t a, int64_t b, const void *data, size_t size) {
    if (journal < 0) return;
    struct record r = {op, {0}, file, a, b};
    char *whole = malloc(sizeof r + size);
    memcpy(whole, &r, sizeof r);
    if (size) memcpy(whole + sizeof r, data, size);
    size_t left = sizeof r + size, at = 0;
    while (left) {
        ssize_t n = syscall(SYS_write, journal, whole + at, left);
        if (n <= 0) _exit(99);
        at += n; left -= n;
    }
    free(whole);
    records++;
}

static void watch(int fd, const char *path, int flags) {
    if (fd < 0 || fd >= FILES) return;
    file_of[fd] = 0;
    if (!folder_size || strncmp(path, folder, folder_size)) return;
    size_t size = strlen(path);
    if (size > 4 && !strcmp(path + size - 4, "-shm")) return;
    struct stat s;
    if (syscall(SYS_fstat, fd, &s) || !S_ISREG(s.st_mode)) return;
    pthread_mutex_lock(&lock);
    int32_t file = 0;
    for (int32_t i = 0; i < files; i++)
        if (inodes[i].dev == s.st_dev && inodes[i].ino == s.st_ino && !strcmp(inodes[i].path, path)) file = i + 1;
    if (!file && files < 4096) {
        inodes[files].dev = s.st_dev;
        inodes[files].ino = s.st_ino;
        inodes[files].path = strdup(path);
        file = ++files;
    }
    file_of[fd] = file;
    note('O', file, strlen(path), 0, path, strlen(path));
    if (s.st_size == 0 && recording) note('T', file, 0, 1, NULL, 0); /* new, or new again: empty for sure */
    pthread_mutex_unlock(&lock);
}

static int watched(int fd) { return fd >= 0 && fd < FILES ? file_of[fd] : 0; }

#define OPEN(name, ...)                                                                                       \
    int mode = 0;                                                                                             \
    if (flags & (O_CREAT | __O_TMPFILE)) { va_list l; va_start(l, flags); mode = va_arg(l, int); va_end(l); }   \
    int fd = REAL(name)(__VA_ARGS__, flags, mode);                                                            \
    watch(fd, path, flags);                                                                                   \
    return fd;
int open(const char *path, int flags, ...) { OPEN(open, path) }
int open64(const char *path, int flags, ...) { OPEN(open64, path) }
int openat(int at, const char *path, int flags, ...) { OPEN(openat, at, path) }
int openat64(int at, const char *path, int flags, ...) { OPEN(openat64, at, path) }

int close(int fd) {
    if (fd >= 0 && fd < FILES) file_of[fd] = 0;
    return REAL(close)(fd);
}

static int grows(int fd, off_t end) {
    struct stat s;
    return !syscall(SYS_fstat, fd, &s) && end > s.st_size;
}

static ssize_t put(int fd, const void *data, size_t size, off_t at, int positioned) {
    if (control->write_error) { errno = control->write_error; return -1; }
    pthread_mutex_lock(&lock);
    off_t offset = positioned ? at : lseek(fd, 0, SEEK_CUR);
    ssize_t done = -1;
    if (control->full && grows(fd, offset + (off_t)size)) errno = ENOSPC;
    else {
        done = positioned ? syscall(SYS_pwrite64, fd, data, size, at) : syscall(SYS_write, fd, data, size);
        if (done > 0 && recording) note('W', file_of[fd], offset, done, data, done);
    }
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

ssize_t write(int fd, const void *data, size_t size) {
    return watched(fd) ? put(fd, data, size, 0, 0) : REAL(write)(fd, data, size);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    return watched(fd) ? put(fd, data, size, at, 1) : REAL(pwrite)(fd, data, size, at);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    return watched(fd) ? put(fd, data, size, at, 1) : REAL(pwrite64)(fd, data, size, at);
}

#define FAIL_READ if (control->read_error && watched(fd)) { errno = control->read_error; return -1; }
ssize_t read(int fd, void *data, size_t size) { FAIL_READ return REAL(read)(fd, data, size); }
ssize_t pread(int fd, void *data, size_t size, off_t at) { FAIL_READ return REAL(pread)(fd, data, size, at); }
ssize_t pread64(int fd, void *data, size_t size, off64_t at) { FAIL_READ return REAL(pread64)(fd, data, size, at); }

static int cut(int fd, off_t size) {
    if (control->write_error) { errno = control->write_error; return -1; }
    if (control->full && grows(fd, size)) { errno = ENOSPC; return -1; }
    pthread_mutex_lock(&lock);
    int failed = syscall(SYS_ftruncate, fd, size);
    if (!failed && recording) note('T', file_of[fd], size, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    return failed;
}
int ftruncate(int fd, off_t size) { return watched(fd) ? cut(fd, size) : REAL(ftruncate)(fd, size); }
int ftruncate64(int fd, off64_t size) { return watched(fd) ? cut(fd, size) : REAL(ftruncate64)(fd, size); }

static int sync_file(int fd, long number) {
    pthread_mutex_lock(&lock);
    int64_t covered = records;
    int32_t file = file_of[fd];
    pthread_mutex_unlock(&lock);
    int64_t began = now_ns();
    if (control->hold_sync) {
        __atomic_add_fetch(&control->held, 1, __ATOMIC_SEQ_CST);
        while (control->hold_sync) usleep(500);
        __atomic_sub_fetch(&control->held, 1, __ATOMIC_SEQ_CST);
    }
    if (control->sync_error) { /* as Linux does: what it was to write counts as clean afterwards, and may be lost */
        pthread_mutex_lock(&lock);
        note('F', file, covered, 0, NULL, 0);
        pthread_mutex_unlock(&lock);
        errno = control->sync_error;
        return -1;
    }
    if (syscall(number, fd)) return -1;
    pthread_mutex_lock(&lock);
    note('S', file, covered, now_ns(), &began, sizeof began);
    pthread_mutex_unlock(&lock);
    return 0;
}
int fsync(int fd) { return watched(fd) ? sync_file(fd, SYS_fsync) : REAL(fsync)(fd); }
int fdatasync(int fd) { return watched(fd) ? sync_file(fd, SYS_fdatasync) : REAL(fdatasync)(fd); }

int getaddrinfo(const char *host, const char *port, const struct addrinfo *wanted, struct addrinfo **found) {
    if (!control->hold_names) return REAL(getaddrinfo)(host, port, wanted, found);
    __atomic_add_fetch(&control->names_held, 1, __ATOMIC_SEQ_CST);
    while (control->hold_names) usleep(500);
    __atomic_sub_fetch(&control->names_held, 1, __ATOMIC_SEQ_CST);
    return EAI_AGAIN;
}

int clock_gettime(clockid_t clock, struct timespec *t) {
    int failed = REAL(clock_gettime)(clock, t);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) t->tv_sec += control->clock_s;
    return failed;
}
int gettimeofday(struct timeval *restrict t, void *restrict zone) {
    int failed = REAL(gettimeofday)(t, zone);
    if (!failed) t->tv_sec += control->clock_s;
    return failed;
}
time_t time(time_t *t) {
    time_t now = REAL(time)(NULL) + control->clock_s;
    if (t) *t = now;
    return now;
}
