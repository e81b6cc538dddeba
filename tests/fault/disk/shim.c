/* Loaded into a process by LD_PRELOAD: records what is done to a database's files, and makes it fail.

   The files are those whose path begins with a prefix (the database, its -wal, -shm and -journal), and
   their folder. Nothing of them is really flushed: a test can take the power away only in thought, and
   flushes would cost it most of its time. Real reads and writes of all other files go on untouched.

   A record is a line "kind name offset length\n", and behind a write or a mark its bytes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FILES 1024
enum { WRITES, FLUSHES };
static struct { long seen, at; int error, stays; } faults[2];
static char prefix[PATH_MAX], names[FILES][NAME_MAX + 1];
static int journal = -1;
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ((__typeof__(name) *)dlsym(RTLD_NEXT, #name))

static void put(const void *data, size_t length) {
    for (const char *from = data; length > 0;) {
        ssize_t done = syscall(SYS_write, journal, from, length);
        if (done < 0) return;
        from += done, length -= done;
    }
}

static void record(const char *kind, const char *name, long long offset, long long length, const void *data) {
    char line[NAME_MAX + 64];
    if (journal < 0) return;
    put(line, snprintf(line, sizeof line, "%s %s %lld %lld\n", kind, name, offset, length));
    if (data) put(data, length);
}

/* Which file a descriptor is; NULL for those that are none of ours. */
static const char *name_of(int fd) { return fd >= 0 && fd < FILES && *names[fd] ? names[fd] : NULL; }

static void opened(int fd, const char *path) {
    size_t folder = strrchr(prefix, '/') - prefix;
    if (fd < 0 || fd >= FILES || !*prefix) return;
    if (!strncmp(path, prefix, strlen(prefix))) {
        strncpy(names[fd], path + folder + 1, NAME_MAX);
        record("open", names[fd], 0, 0, NULL);
    } else if (!strncmp(path, prefix, folder) && !path[folder])
        strcpy(names[fd], "/");
}

/* Count what is about to happen; the error that it ends with, or 0. */
static int struck(int what) {
    long now = ++faults[what].seen;
    if (!faults[what].at || now < faults[what].at) return 0;
    return now == faults[what].at || faults[what].stays ? faults[what].error : 0;
}

static ssize_t writes(int fd, const void *data, size_t length, off64_t offset) {
    const char *name = name_of(fd);
    if (!name) return REAL(pwrite64)(fd, data, length, offset);
    pthread_mutex_lock(&gate);
    int error = struck(WRITES);
    ssize_t done = -1;
    if (error && error == ENOSPC && faults[WRITES].stays && faults[WRITES].seen == faults[WRITES].at)
        length /= 2, error = 0; /* as a disk does that fills up: the first write is cut short */
    if (!error) {
        done = REAL(pwrite64)(fd, data, length, offset), error = errno;
        if (done > 0) record("write", name, offset, done, data);
    }
    pthread_mutex_unlock(&gate);
    errno = error;
    return done;
}

static int flushes(int fd, int (*real)(int)) {
    const char *name = name_of(fd);
    if (!name) return real(fd);
    pthread_mutex_lock(&gate);
    int error = struck(FLUSHES);
    record(error ? "lost" : "sync", name, 0, 0, NULL);
    pthread_mutex_unlock(&gate);
    errno = error;
    return error ? -1 : 0;
}

static int truncates(int fd, off64_t length) {
    const char *name = name_of(fd);
    pthread_mutex_lock(&gate);
    int done = REAL(ftruncate64)(fd, length), error = errno;
    if (name && !done) record("truncate", name, length, 0, NULL);
    pthread_mutex_unlock(&gate);
    errno = error;
    return done;
}

static int opens(const char *path, int flags, int mode) {
    int fd = REAL(open64)(path, flags, mode);
    pthread_mutex_lock(&gate);
    opened(fd, path);
    pthread_mutex_unlock(&gate);
    return fd;
}

/* ---- what libc calls it ---- */

#define MODE ({ va_list rest; va_start(rest, flags); int mode = va_arg(rest, int); va_end(rest); mode; })

int open(const char *path, int flags, ...) { return opens(path, flags, MODE); }
int open64(const char *path, int flags, ...) { return opens(path, flags, MODE); }

int close(int fd) {
    if (name_of(fd)) *names[fd] = 0;
    return REAL(close)(fd);
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) { return writes(fd, data, length, offset); }
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) { return writes(fd, data, length, offset); }

ssize_t write(int fd, const void *data, size_t length) {
    if (!name_of(fd)) return REAL(write)(fd, data, length);
    off64_t offset = lseek64(fd, 0, SEEK_CUR);
    ssize_t done = writes(fd, data, length, offset);
    if (done > 0) lseek64(fd, offset + done, SEEK_SET);
    return done;
}

int fsync(int fd) { return flushes(fd, REAL(fsync)); }
int fdatasync(int fd) { return flushes(fd, REAL(fdatasync)); }
int ftruncate(int fd, off_t length) { return truncates(fd, length); }
int ftruncate64(int fd, off64_t length) { return truncates(fd, length); }

int unlink(const char *path) {
    int done = REAL(unlink)(path), error = errno;
    pthread_mutex_lock(&gate);
    if (!done && *prefix && !strncmp(path, prefix, strlen(prefix)))
        record("unlink", strrchr(path, '/') + 1, 0, 0, NULL);
    pthread_mutex_unlock(&gate);
    errno = error;
    return done;
}

/* ---- what the test says, before the files are opened ---- */

void disk_watch(const char *path, const char *log) {
    memset(faults, 0, sizeof faults);
    strncpy(prefix, path, sizeof prefix - 1);
    journal = *log ? REAL(open64)(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
}

void disk_mark(const char *text) {
    pthread_mutex_lock(&gate);
    record("mark", "-", 0, strlen(text), text);
    pthread_mutex_unlock(&gate);
}

/* Make the nth write (or flush) from now on fail; with `stays`, all after it as well; nth = 0: none. */
void disk_fail(int what, long nth, int error, int stays) {
    pthread_mutex_lock(&gate);
    faults[what].seen = 0, faults[what].at = nth, faults[what].error = error, faults[what].stays = stays;
    pthread_mutex_unlock(&gate);
}

long disk_seen(int what) { return faults[what].seen; }
