/* A disk that fails: loaded before libc, it counts the calls that change files under one folder, and at the n-th one
 * fails, writes half, ends the process, or cuts the power.
 *
 * A power cut keeps what was synchronised alone: a file whose data were not is emptied, a name (new file, rename, new
 * folder) whose folder was not is undone. Removals count as done at once, the worse of what a disk may do. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NONE, ENOSPC_FROM, EIO_ONCE, EROFS_FROM, SHORT, CRASH, POWER };
enum { CREATED, RENAMED, MADE_FOLDER };
typedef struct { int what; char path[PATH_MAX], from[PATH_MAX], backup[PATH_MAX]; } Event;

static char root[PATH_MAX], aside[PATH_MAX];
static int kind, at, count, backups;
static char (*dirty)[PATH_MAX];
static Event *events;
static int num_dirty, num_events;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

void faulty_disk_arm(const char *folder, const char *backup_folder, int how, int when) {
    snprintf(root, sizeof root, "%s/", folder);
    snprintf(aside, sizeof aside, "%s", backup_folder);
    kind = how, at = when, count = num_dirty = num_events = 0;
}

int faulty_disk_count(void) { return count; }

static int absolute(int folder, const char *path, char *out) {
    char base[PATH_MAX], link[64];
    if (path[0] == '/') return snprintf(out, PATH_MAX, "%s", path), 1;
    if (folder == AT_FDCWD) {
        if (!getcwd(base, sizeof base)) return 0;
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t length = readlink(link, base, sizeof base - 1);
        if (length < 0) return 0;
        base[length] = 0;
    }
    return snprintf(out, PATH_MAX, "%s/%s", base, path), 1;
}

static int ours(const char *path) {
    size_t length = strlen(root);
    return root[0] && (!strncmp(path, root, length) || (strlen(path) == length - 1 && !strncmp(path, root, length - 1)));
}

static int of_handle(int handle, char *out) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    ssize_t length = readlink(link, out, PATH_MAX - 1);
    if (length < 0) return 0;
    out[length] = 0;
    return ours(out);
}

static int delete(const char *path, const struct stat *s, int type, struct FTW *walk) {
    (void)s, (void)type, (void)walk;
    return remove(path);
}

static void cut_power(void) {
    root[0] = 0; /* what follows is not counted */
    for (int i = 0; i < num_dirty; i++) (void)!truncate(dirty[i], 0);
    for (int i = num_events - 1; i >= 0; i--) {
        Event *e = &events[i];
        if (e->what == RENAMED) {
            REAL(rename)(e->path, e->from);
            if (e->backup[0]) REAL(rename)(e->backup, e->path);
        } else if (e->what == CREATED) {
            REAL(unlink)(e->path);
        } else {
            nftw(e->path, delete, 16, FTW_DEPTH | FTW_PHYS);
        }
    }
}

enum { OTHER, WRITES, REMOVES };

/* One more call: 0 to go on, -1 with errno to fail, 1 to write half of it. What is full can be removed from. */
static int fault(int what) {
    int now = ++count;
    if (kind == NONE || now < at) return 0;
    if (kind == ENOSPC_FROM) return what == REMOVES ? 0 : (errno = ENOSPC, -1);
    if (kind == EROFS_FROM) return errno = EROFS, -1;
    if (kind == EIO_ONCE) return now == at ? (errno = EIO, -1) : 0;
    if (kind == SHORT) return what != WRITES ? 0 : now == at ? 1 : (errno = ENOSPC, -1);
    if (kind == POWER) cut_power();
    _exit(137);
}

static void mark_dirty(const char *path) {
    for (int i = 0; i < num_dirty; i++)
        if (!strcmp(dirty[i], path)) return;
    dirty = realloc(dirty, (num_dirty + 1) * sizeof *dirty);
    snprintf(dirty[num_dirty++], PATH_MAX, "%s", path);
}

static void mark_clean(const char *path) {
    for (int i = 0; i < num_dirty; i++)
        if (!strcmp(dirty[i], path)) memmove(dirty[i], dirty[--num_dirty], PATH_MAX);
}

static Event *happened(int what, const char *path) {
    events = realloc(events, (num_events + 1) * sizeof *events);
    Event *e = &events[num_events++];
    memset(e, 0, sizeof *e);
    e->what = what;
    snprintf(e->path, PATH_MAX, "%s", path);
    return e;
}

static int is_in(const char *path, const char *folder) {
    size_t length = strlen(folder);
    return !strncmp(path, folder, length) && path[length] == '/' && !strchr(path + length + 1, '/');
}

static void folder_synchronised(const char *folder) {
    int kept = 0;
    for (int i = 0; i < num_events; i++) {
        if (!is_in(events[i].path, folder)) events[kept++] = events[i];
        else if (events[i].backup[0]) REAL(unlink)(events[i].backup);
    }
    num_events = kept;
}

static int opened(int folder, const char *path, int flags, mode_t mode) {
    char full[PATH_MAX];
    int changes = (flags & (O_CREAT | O_TRUNC)) && (flags & O_ACCMODE) != O_RDONLY;
    if (!changes || !absolute(folder, path, full) || !ours(full)) return REAL(openat64)(folder, path, flags, mode);
    pthread_mutex_lock(&lock);
    int handle = -1, is_new = access(full, F_OK) != 0;
    if (fault(OTHER) == 0) {
        handle = REAL(openat64)(folder, path, flags, mode);
        if (handle >= 0 && is_new) happened(CREATED, full);
        if (handle >= 0 && !is_new && (flags & O_TRUNC)) mark_dirty(full);
    }
    pthread_mutex_unlock(&lock);
    return handle;
}

#define MODE(flags, mode)                      \
    mode_t mode = 0;                           \
    if ((flags) & (O_CREAT | O_TMPFILE)) {     \
        va_list rest;                          \
        va_start(rest, flags);                 \
        mode = va_arg(rest, mode_t);           \
        va_end(rest);                          \
    }
int open(const char *path, int flags, ...) { MODE(flags, mode) return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags, mode) return opened(AT_FDCWD, path, flags, mode); }
int openat(int folder, const char *path, int flags, ...) { MODE(flags, mode) return opened(folder, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...) { MODE(flags, mode) return opened(folder, path, flags, mode); }

static FILE *streamed(const char *path, const char *how) {
    char full[PATH_MAX];
    if (how[0] == 'r' || !absolute(AT_FDCWD, path, full) || !ours(full)) return REAL(fopen64)(path, how);
    pthread_mutex_lock(&lock);
    FILE *file = NULL;
    int is_new = access(full, F_OK) != 0;
    if (fault(OTHER) == 0) {
        file = REAL(fopen64)(path, how);
        if (file && is_new) happened(CREATED, full);
        if (file) mark_dirty(full);
    }
    pthread_mutex_unlock(&lock);
    return file;
}
FILE *fopen(const char *path, const char *how) { return streamed(path, how); }
FILE *fopen64(const char *path, const char *how) { return streamed(path, how); }

/* The length that may be written, or -1. */
static ssize_t allowed(int handle, size_t length) {
    char full[PATH_MAX];
    if (!root[0] || !of_handle(handle, full)) return length;
    pthread_mutex_lock(&lock);
    int answer = fault(WRITES);
    if (answer >= 0) mark_dirty(full);
    pthread_mutex_unlock(&lock);
    return answer < 0 ? -1 : answer ? (ssize_t)(length / 2) : (ssize_t)length;
}

ssize_t write(int handle, const void *data, size_t length) {
    ssize_t may = allowed(handle, length);
    return may < 0 ? -1 : REAL(write)(handle, data, may);
}
ssize_t pwrite64(int handle, const void *data, size_t length, off64_t where) {
    ssize_t may = allowed(handle, length);
    return may < 0 ? -1 : REAL(pwrite64)(handle, data, may, where);
}
ssize_t pwrite(int handle, const void *data, size_t length, off_t where) { return pwrite64(handle, data, length, where); }
ssize_t writev(int handle, const struct iovec *parts, int number) {
    ssize_t may = allowed(handle, 1);
    return may < 0 ? -1 : REAL(writev)(handle, parts, number);
}
int ftruncate64(int handle, off64_t length) { return allowed(handle, 0) < 0 ? -1 : REAL(ftruncate64)(handle, length); }
int ftruncate(int handle, off_t length) { return ftruncate64(handle, length); }

int fsync(int handle) {
    char full[PATH_MAX];
    struct stat s;
    if (!root[0] || !of_handle(handle, full)) return REAL(fsync)(handle);
    pthread_mutex_lock(&lock);
    int answer = fault(OTHER);
    if (answer == 0) {
        if (!fstat(handle, &s) && S_ISDIR(s.st_mode)) folder_synchronised(full);
        else mark_clean(full);
    }
    pthread_mutex_unlock(&lock);
    return answer; /* nothing needs to reach a real disk here */
}
int fdatasync(int handle) { return fsync(handle); }

static int renamed(int from_folder, const char *from, int to_folder, const char *to) {
    char source[PATH_MAX], target[PATH_MAX], backup[PATH_MAX] = "";
    if (!root[0] || !absolute(from_folder, from, source) || !absolute(to_folder, to, target) || !ours(target))
        return REAL(renameat)(from_folder, from, to_folder, to);
    pthread_mutex_lock(&lock);
    int answer = fault(OTHER);
    if (answer == 0) {
        if (kind == POWER && access(target, F_OK) == 0) {
            snprintf(backup, sizeof backup, "%.3900s/%d", aside, backups++);
            if (link(target, backup)) backup[0] = 0;
        }
        answer = REAL(renameat)(from_folder, from, to_folder, to);
        if (answer == 0) {
            Event *e = happened(RENAMED, target);
            snprintf(e->from, PATH_MAX, "%s", source);
            snprintf(e->backup, PATH_MAX, "%s", backup);
            for (int i = 0; i < num_dirty; i++)
                if (!strcmp(dirty[i], source)) snprintf(dirty[i], PATH_MAX, "%s", target);
            if (kind == NONE) { /* kept: what a reader may find at one time or another */
                snprintf(backup, sizeof backup, "%.3900s/%d", aside, backups++);
                (void)!link(target, backup);
            }
        }
    }
    pthread_mutex_unlock(&lock);
    return answer;
}
int rename(const char *from, const char *to) { return renamed(AT_FDCWD, from, AT_FDCWD, to); }
int renameat(int a, const char *from, int b, const char *to) { return renamed(a, from, b, to); }

int mkdirat(int folder, const char *path, mode_t mode) {
    char full[PATH_MAX];
    if (!root[0] || !absolute(folder, path, full) || !ours(full) || access(full, F_OK) == 0)
        return REAL(mkdirat)(folder, path, mode);
    pthread_mutex_lock(&lock);
    int answer = fault(OTHER);
    if (answer == 0 && (answer = REAL(mkdirat)(folder, path, mode)) == 0) happened(MADE_FOLDER, full);
    pthread_mutex_unlock(&lock);
    return answer;
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

int unlinkat(int folder, const char *path, int flags) {
    char full[PATH_MAX];
    if (!root[0] || !absolute(folder, path, full) || !ours(full)) return REAL(unlinkat)(folder, path, flags);
    pthread_mutex_lock(&lock);
    int answer = fault(REMOVES);
    if (answer == 0) {
        answer = REAL(unlinkat)(folder, path, flags);
        mark_clean(full);
    }
    pthread_mutex_unlock(&lock);
    return answer;
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
