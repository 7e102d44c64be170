/* A file system shared with other machines, for one process: put before the C library, it lets handles go stale and entries show late.
 *
 * STALE=n: of each file or folder below SHARED, the first n times it is opened or read end with ESTALE. (What is only looked up
 * by its name the kernel asks for anew by itself.)
 * QUOTA=n: after n bytes were written below SHARED, writing ends with EDQUOT.
 * LATE=text,n: what has this text in its path is not there the first n times it is asked for, nor in the first n listings.
 * MOUNTS=file: read in place of /proc/self/mountinfo. All counted per process and path.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct { char path[512]; int stale, late; } seen[4096];
static int known;
static long written;

static int whole(int at, const char *path, char *full) {
  char base[PATH_MAX] = "";
  if (path[0] != '/') {
    char link[64];
    if (at == AT_FDCWD) { if (!getcwd(base, sizeof base)) return 0; }
    else {
      snprintf(link, sizeof link, "/proc/self/fd/%d", at);
      ssize_t length = readlink(link, base, sizeof base - 1);
      if (length < 0) return 0;
      base[length] = 0;
    }
    strncat(base, "/", sizeof base - strlen(base) - 1);
  }
  snprintf(full, PATH_MAX, "%s%s", base, path);
  return 1;
}

/* What the call is to end with; 0: it may go on. */
static int fate(int at, const char *path, int handle) {
  const char *shared = getenv("SHARED"), *late = getenv("LATE"), *stale = getenv("STALE");
  char full[PATH_MAX];
  if (!shared || !path || !whole(at, path, full) || strncmp(full, shared, strlen(shared))) return 0;
  int n = 0;
  while (n < known && strncmp(seen[n].path, full, 511)) n++;
  if (n == known) { if (known == 4095) return 0; snprintf(seen[known++].path, 512, "%s", full); }
  if (late) {
    const char *comma = strchr(late, ',');
    char text[256];
    snprintf(text, sizeof text, "%.*s", (int)(comma - late), late);
    if (strstr(full, text) && seen[n].late++ < atoi(comma + 1)) return ENOENT;
  }
  return handle && stale && seen[n].stale++ < atoi(stale) ? ESTALE : 0;
}

#define REAL(name, type) ((type)dlsym(RTLD_NEXT, name))
#define REFUSE(at, path, handle) do { int why = fate(at, path, handle); if (why) { errno = why; return -1; } } while (0)

static const char *elsewhere(const char *path) {
  const char *mounts = getenv("MOUNTS");
  return mounts && path && !strcmp(path, "/proc/self/mountinfo") ? mounts : path;
}
#define OPEN(name) int name(const char *path, int flags, ...) { va_list a; va_start(a, flags); mode_t mode = va_arg(a, mode_t); va_end(a); \
  if (!(flags & O_CREAT)) REFUSE(AT_FDCWD, path, 1); return REAL(#name, int (*)(const char *, int, mode_t))(elsewhere(path), flags, mode); }
OPEN(open)
OPEN(open64)
#define OPENAT(name) int name(int at, const char *path, int flags, ...) { va_list a; va_start(a, flags); mode_t mode = va_arg(a, mode_t); va_end(a); \
  if (!(flags & O_CREAT)) REFUSE(at, path, 1); return REAL(#name, int (*)(int, const char *, int, mode_t))(at, elsewhere(path), flags, mode); }
OPENAT(openat)
OPENAT(openat64)
#define STAT(name, type) int name(const char *path, struct type *found) { REFUSE(AT_FDCWD, path, 0); \
  return REAL(#name, int (*)(const char *, struct type *))(path, found); }
STAT(stat, stat)
STAT(stat64, stat64)
#define STATAT(name, type) int name(int at, const char *path, struct type *found, int flags) { if (path[0]) REFUSE(at, path, 0); \
  return REAL(#name, int (*)(int, const char *, struct type *, int))(at, path, found, flags); }
STATAT(fstatat, stat)
STATAT(fstatat64, stat64)
#define READDIR(name, type) struct type *name(DIR *folder) { struct type *entry; \
  do entry = REAL(#name, struct type *(*)(DIR *))(folder); \
  while (entry && getenv("LATE") && fate(dirfd(folder), entry->d_name, 0) == ENOENT); return entry; }
READDIR(readdir, dirent)
READDIR(readdir64, dirent64)

static const char *name_of(int file) {
  static char full[PATH_MAX];
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t length = readlink(link, full, sizeof full - 1);
  full[length < 0 ? 0 : length] = 0;
  return full;
}
ssize_t read(int file, void *to, size_t size) {
  if (getenv("STALE")) REFUSE(AT_FDCWD, name_of(file), 1);
  return REAL("read", ssize_t (*)(int, void *, size_t))(file, to, size);
}
ssize_t write(int file, const void *from, size_t size) {
  const char *quota = getenv("QUOTA"), *shared = getenv("SHARED");
  if (quota && shared && !strncmp(name_of(file), shared, strlen(shared))) {
    long left = atol(quota) - written;
    if (left <= 0) { errno = EDQUOT; return -1; }
    if ((long)size > left) size = left;
    written += size;
  }
  return REAL("write", ssize_t (*)(int, const void *, size_t))(file, from, size);
}
