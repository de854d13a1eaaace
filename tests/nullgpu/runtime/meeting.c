// Ranks of one machine meet in POSIX shared memory. Nothing is left behind: the name is gone once all have joined.
#define _GNU_SOURCE
#include "meeting.h"

#include <cuda_runtime_api.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static __thread char message[512];

ncclResult_t refuse(ncclResult_t result, const char *format, ...) {
  va_list values;
  va_start(values, format);
  vsnprintf(message, sizeof message, format, values);
  va_end(values);
  fprintf(stderr, "null GPU: %s\n", message);
  return result;
}
const char *ncclGetLastError(ncclComm_t comm) { return message; }

double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + time.tv_nsec * 1e-9;
}

// Seconds until a rank that waits for another gives up, so that no test leaves ranks behind that wait for ever.
double patience(void) {
  const char *text = getenv("NULLGPU_PATIENCE");
  return text ? atof(text) : 120;
}

void nap(void) { usleep(50); }

ncclResult_t meet(ncclComm_t comm) {
  Shared *shared = comm->shared;
  uint32_t mine = atomic_load(&shared->generation);
  if (atomic_fetch_add(&shared->arrived, 1) + 1 == (uint32_t)comm->ranks) {
    atomic_store(&shared->arrived, 0);
    atomic_fetch_add(&shared->generation, 1);
    syscall(SYS_futex, &shared->generation, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    return ncclSuccess;
  }
  double until = now() + patience();
  struct timespec look = {0, 50000000};  // an abort wakes nobody: look for it now and then
  while (atomic_load(&shared->generation) == mine) {
    if (comm->aborted) return refuse(ncclSystemError, "rank %d: the communicator was aborted", comm->rank);
    if (now() > until) return refuse(ncclSystemError, "rank %d: another rank has not come", comm->rank);
    syscall(SYS_futex, &shared->generation, FUTEX_WAIT, mine, &look, NULL, 0);
  }
  return ncclSuccess;
}

static size_t rounded(size_t bytes) { return (bytes + 4095) / 4096 * 4096; }
char *slot(ncclComm_t comm, int rank) { return (char *)comm->shared + rounded(sizeof(Shared)) + rank * SLOT_BYTES; }
char *box(ncclComm_t comm, int from, int to) {
  return slot(comm, comm->ranks) + ((size_t)from * comm->ranks + to) * BOX_BYTES;
}

// Collective over the ranks that know the name.
ncclResult_t join(const char *name, int rank, int ranks, ncclComm_t *joined) {
  if (ranks < 1 || ranks > MOST_RANKS || rank < 0 || rank >= ranks)
    return refuse(ncclInvalidArgument, "rank %d of %d ranks; at most %d", rank, ranks, MOST_RANKS);
  struct ncclComm *comm = calloc(1, sizeof *comm);
  comm->rank = rank;
  comm->ranks = ranks;
  cudaGetDevice(&comm->device);
  snprintf(comm->name, sizeof comm->name, "%s", name);
  comm->bytes = rounded(sizeof(Shared)) + ranks * SLOT_BYTES + (size_t)ranks * ranks * BOX_BYTES;
  int file = shm_open(name, O_CREAT | O_RDWR, 0600);
  if (file < 0 || ftruncate(file, comm->bytes))
    return refuse(ncclSystemError, "shared memory %s: %s", name, strerror(errno));
  comm->shared = mmap(NULL, comm->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (comm->shared == MAP_FAILED) return refuse(ncclSystemError, "shared memory %s: %s", name, strerror(errno));
  comm->shared->posts[rank] = (Post){.what = "join", .device = comm->device};
  ncclResult_t result = meet(comm);
  shm_unlink(name);  // the first one removes it for all
  const Post *posts = comm->shared->posts;
  for (int one = 1; !result && one < ranks; one++)
    for (int other = 0; !result && other < one; other++)
      if (posts[one].device == posts[other].device)
        result = refuse(ncclInvalidUsage, "ranks %d and %d are both on CUDA device %d", other, one, posts[one].device);
  if (!result) result = meet(comm);
  if (result) {
    leave(comm);
    return result;
  }
  *joined = comm;
  return ncclSuccess;
}

void leave(ncclComm_t comm) {
  if (comm->shared && comm->shared != MAP_FAILED) munmap(comm->shared, comm->bytes);
  free(comm);
}
