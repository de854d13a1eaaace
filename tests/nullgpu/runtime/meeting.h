// A communicator's shared memory: what each rank posts, a slot of bytes for each rank, a box for each pair of ranks.
#pragma once
#include <nccl.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define MOST_RANKS 16
#define SLOT_BYTES ((size_t)1 << 20)
#define BOX_BYTES ((size_t)64 << 10)

typedef struct {  // what a rank is about to do; collectives that do not agree are refused
  char what[24];
  uint64_t count;
  int type, op, root;
  int device, color, key;
} Post;

typedef struct {  // a message from one rank to another, a part at a time
  _Atomic uint32_t full;
  uint64_t total, bytes;
} Box;

typedef struct {
  _Atomic uint32_t arrived, generation;
  Post posts[MOST_RANKS];
  Box boxes[MOST_RANKS][MOST_RANKS];  // [from][to]
} Shared;

struct ncclComm {
  int rank, ranks, device, splits;
  char name[64];
  _Atomic int aborted;
  Shared *shared;
  size_t bytes;
};

ncclResult_t refuse(ncclResult_t result, const char *format, ...);
ncclResult_t meet(ncclComm_t comm);
ncclResult_t join(const char *name, int rank, int ranks, ncclComm_t *joined);
void leave(ncclComm_t comm);
void nap(void);
char *slot(ncclComm_t comm, int rank);
char *box(ncclComm_t comm, int from, int to);
double now(void);
double patience(void);
