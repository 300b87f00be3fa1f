/* Kills the process right before the CRASH_AT-th call that changes something below CRASH_HOME; the state is then the
 * one right after the call before it. Calls that create, write, truncate, sync, rename, remove and lock files are counted,
 * except those on log files. The signal is SIGKILL, so no code of the process runs afterwards. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static atomic_long calls;

static void count(const char *path) {
    const char *home = getenv("CRASH_HOME"), *at = getenv("CRASH_AT");
    if (!home || !at || strncmp(path, home, strlen(home)) != 0 || strstr(path, "/logs/")) return;
    if (atomic_fetch_add(&calls, 1) + 1 == atol(at)) kill(getpid(), SIGKILL);
}

static void count_fd(int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return;
    path[length] = 0;
    count(path);
}

#define NEXT(type, name, ...) \
    static type (*next)(__VA_ARGS__); \
    if (!next) next = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        NEXT(int, #name, const char *, int, ...); \
        if (flags & O_CREAT) count(path); \
        return next(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define ON_FD(type, name, parameters, arguments, ...) \
    type name parameters { \
        NEXT(type, #name, __VA_ARGS__); \
        count_fd(fd); \
        return next arguments; \
    }
ON_FD(ssize_t, write, (int fd, const void *bytes, size_t size), (fd, bytes, size), int, const void *, size_t)
ON_FD(ssize_t, pwrite, (int fd, const void *bytes, size_t size, off_t at), (fd, bytes, size, at), int, const void *, size_t, off_t)
ON_FD(ssize_t, pwrite64, (int fd, const void *bytes, size_t size, off64_t at), (fd, bytes, size, at), int, const void *, size_t, off64_t)
ON_FD(int, ftruncate, (int fd, off_t size), (fd, size), int, off_t)
ON_FD(int, ftruncate64, (int fd, off64_t size), (fd, size), int, off64_t)
ON_FD(int, fsync, (int fd), (fd), int)
ON_FD(int, fdatasync, (int fd), (fd), int)
ON_FD(int, flock, (int fd, int what), (fd, what), int, int)

#define ON_PATH(name, parameters, arguments, ...) \
    int name parameters { \
        NEXT(int, #name, __VA_ARGS__); \
        count(path); \
        return next arguments; \
    }
ON_PATH(rename, (const char *path, const char *to), (path, to), const char *, const char *)
ON_PATH(unlink, (const char *path), (path), const char *)
ON_PATH(mkdir, (const char *path, mode_t mode), (path, mode), const char *, mode_t)
