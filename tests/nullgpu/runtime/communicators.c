// NCCL's communicators: made from an id or by splitting, asked about, given up.
#define _GNU_SOURCE
#include "meeting.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

ncclResult_t ncclGetVersion(int *version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}
const char *ncclGetErrorString(ncclResult_t result) { return result ? "refused by the null GPU" : "no error"; }

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
  static int made = 0;
  memset(id, 0, sizeof *id);
  snprintf(id->internal, sizeof id->internal, "/nullgpu-%d-%lx-%d", getpid(), (long)(now() * 1e6), made++);
  return ncclSuccess;
}
ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t *config) {
  return join(id.internal, rank, ranks, comm);
}
ncclResult_t ncclCommInitRank(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank) {
  return join(id.internal, rank, ranks, comm);
}
ncclResult_t ncclCommInitRankScalable(ncclComm_t *comm, int ranks, int rank, int count, ncclUniqueId *ids,
                                      ncclConfig_t *config) {
  return join(ids[0].internal, rank, ranks, comm);
}

// Ranks of one color become a communicator, in order of key and then of rank.
ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t *split, ncclConfig_t *config) {
  Post *posts = comm->shared->posts;
  posts[comm->rank] = (Post){.what = "split", .color = color, .key = key};
  ncclResult_t result = meet(comm);
  if (result) return result;
  int ranks = 0, rank = 0;
  for (int other = 0; other < comm->ranks; other++) {
    if (strcmp(posts[other].what, "split"))
      return refuse(ncclInvalidUsage, "rank %d splits and rank %d calls %s", comm->rank, other, posts[other].what);
    if (posts[other].color != color) continue;
    ranks++;
    rank += posts[other].key < key || (posts[other].key == key && other < comm->rank);
  }
  if ((result = meet(comm))) return result;
  char name[sizeof comm->name];
  int length = snprintf(name, sizeof name, "%s.%d.%d", comm->name, comm->splits++, color);
  if (length >= (int)sizeof name) return refuse(ncclInvalidUsage, "a split of a split of too many splits");
  *split = NULL;
  return color == NCCL_SPLIT_NOCOLOR ? ncclSuccess : join(name, rank, ranks, split);
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) { return ncclSuccess; }
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  leave(comm);
  return ncclSuccess;
}
// Another thread may be waiting in a collective of this communicator, so its memory stays.
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  atomic_store(&comm->aborted, 1);
  return ncclSuccess;
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error) {
  *error = comm->aborted ? ncclSystemError : ncclSuccess;
  return ncclSuccess;
}

ncclResult_t ncclCommCount(const ncclComm_t comm, int *count) {
  *count = comm->ranks;
  return ncclSuccess;
}
ncclResult_t ncclCommCuDevice(const ncclComm_t comm, int *device) {
  *device = comm->device;
  return ncclSuccess;
}
ncclResult_t ncclCommUserRank(const ncclComm_t comm, int *rank) {
  *rank = comm->rank;
  return ncclSuccess;
}

ncclResult_t ncclCommRegister(const ncclComm_t comm, void *memory, size_t bytes, void **handle) {
  *handle = memory;
  return ncclSuccess;
}
ncclResult_t ncclCommDeregister(const ncclComm_t comm, void *handle) { return ncclSuccess; }
ncclResult_t ncclMemAlloc(void **memory, size_t bytes) {
  return cudaMalloc(memory, bytes) ? ncclSystemError : ncclSuccess;
}
ncclResult_t ncclMemFree(void *memory) { return cudaFree(memory) ? ncclSystemError : ncclSuccess; }
