/* Two shared objects from one source, compiled by bench/receivers.py:
 *   -DDURABLE   a file that was written is synced when it is closed, and so is its folder: what storescp leaves out
 *   -DVOLATILE  fsync, fdatasync, syncfs and sync_file_range do nothing: our own programs without durability
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

#ifdef VOLATILE
int fsync(int fd) { (void)fd; return 0; }
int fdatasync(int fd) { (void)fd; return 0; }
int syncfs(int fd) { (void)fd; return 0; }
int sync_file_range(int fd, off64_t at, off64_t n, unsigned flags)
{ (void)fd; (void)at; (void)n; (void)flags; return 0; }
#endif

#ifdef DURABLE
int fclose(FILE *file)
{
    static int (*real)(FILE *);
    int fd = fileno(file), folder = -1;
    char link[64], path[PATH_MAX];
    if (!real) real = (int (*)(FILE *))dlsym(RTLD_NEXT, "fclose");
    if (fd >= 0 && (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, path, sizeof path - 1);
        if (length > 0 && path[0] == '/') {
            path[length] = 0;
            fflush(file);
            fdatasync(fd);
            folder = open(dirname(path), O_RDONLY | O_DIRECTORY);
        }
    }
    int result = real(file);
    if (folder >= 0) { fsync(folder); close(folder); }
    return result;
}
#endif
