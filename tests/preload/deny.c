/* Lets the calls fail that DENY names: `flock`, as on a file system without locks. (The hub sets up its file watches
 * without libc, so a preloaded library cannot deny them; a user namespace can.) */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int denied(const char *what) {
    const char *list = getenv("DENY");
    return list && strstr(list, what);
}

int flock(int fd, int operation) {
    if (denied("flock")) {
        errno = ENOLCK;
        return -1;
    }
    return (int)syscall(SYS_flock, fd, operation);
}
