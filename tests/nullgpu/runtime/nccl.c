// NCCL between processes of one machine: every collective goes through shared memory, and is done when the call returns.
//
// Before a collective moves anything, the ranks compare what they are about to do. Real NCCL would hang or mix up
// values where ranks differ; here all of them are refused. So is memory that is not on the communicator's own device.
#define _GNU_SOURCE
#include "meeting.h"
#include "reduce.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef enum { ALL_REDUCE, REDUCE, BROADCAST, ALL_GATHER, REDUCE_SCATTER, SEND, RECEIVE } Kind;
static const char *const names[] = {"all-reduce", "reduce",  "broadcast", "all-gather", "reduce-scatter",
                                    "send",       "receive"};

typedef struct {
  Kind kind;
  const char *from;
  char *to;
  size_t count;
  ncclDataType_t type;
  ncclRedOp_t op;
  int peer;  // root of a collective, other end of a message
  ncclComm_t comm;
  uint64_t moved;  // bytes of a message so far
} Call;

#define MOST_CALLS 65536
static __thread Call *queue;
static __thread int queued, depth;

// ---- collectives

static ncclResult_t on_own_device(const Call *call, const void *pointer) {
  if (!call->count) return ncclSuccess;
  struct cudaPointerAttributes found;
  cudaPointerGetAttributes(&found, pointer);
  if (found.type == cudaMemoryTypeDevice && found.device == call->comm->device) return ncclSuccess;
  return refuse(ncclInvalidArgument, "%s on rank %d: memory of %s %d given to a communicator of CUDA device %d",
                names[call->kind], call->comm->rank, found.type == cudaMemoryTypeDevice ? "CUDA device" : "the host",
                found.device, call->comm->device);
}

static ncclResult_t agree(const Call *call) {
  ncclComm_t comm = call->comm;
  Post *posts = comm->shared->posts;
  int op = call->op >= ncclNumOps ? ncclNumOps : call->op;  // each rank numbers its scaled sums for itself
  Post mine = {.count = call->count, .type = call->type, .op = op, .root = call->peer};
  snprintf(mine.what, sizeof mine.what, "%s", names[call->kind]);
  posts[comm->rank] = mine;
  ncclResult_t result = meet(comm);
  for (int rank = 0; !result && rank < comm->ranks; rank++) {
    Post other = posts[rank];
    if (strcmp(other.what, mine.what) || other.count != mine.count || other.type != mine.type || other.op != mine.op ||
        other.root != mine.root)
      result = refuse(ncclInvalidUsage, "rank %d calls %s of %lu values of type %d and rank %d calls %s of %lu of %d",
                      comm->rank, mine.what, mine.count, mine.type, rank, other.what, other.count, other.type);
  }
  return result ? result : meet(comm);  // all have compared before anyone posts again
}

// One part of a collective, at most a slot of bytes: rank `target` takes it, or every rank if `target` is negative.
static ncclResult_t part(const Call *call, const char *from, char *to, size_t count, int source, int target) {
  ncclComm_t comm = call->comm;
  size_t width = bytes_of(call->type);
  char *slots[MOST_RANKS];
  for (int rank = 0; rank < comm->ranks; rank++) slots[rank] = slot(comm, rank);
  if (source < 0 || source == comm->rank) {
    memcpy(slots[comm->rank], from, count * width);
    if (call->op >= ncclNumOps) scale(slots[comm->rank], count, call->type, scale_of(call->op));
  }
  ncclResult_t result = meet(comm);
  if (result) return result;
  if (target < 0 || target == comm->rank) {
    if (call->kind == BROADCAST)
      memcpy(to, slots[source], count * width);
    else if (call->kind == ALL_GATHER)
      for (int rank = 0; rank < comm->ranks; rank++) memcpy(to + rank * call->count * width, slots[rank], count * width);
    else
      result = reduce(to, slots, comm->ranks, count, call->type, call->op);
  }
  ncclResult_t after = meet(comm);
  return result ? result : after;
}

static ncclResult_t collective(const Call *call) {
  ncclComm_t comm = call->comm;
  size_t width = bytes_of(call->type), most = SLOT_BYTES / width;
  int reads = call->kind != BROADCAST || comm->rank == call->peer;
  int writes = call->kind != REDUCE || comm->rank == call->peer;
  ncclResult_t result = reads ? on_own_device(call, call->from) : ncclSuccess;
  if (!result && writes) result = on_own_device(call, call->to);
  if (result) return result;
  if ((result = agree(call))) return result;
  int source = call->kind == BROADCAST ? call->peer : -1;
  int scatter = call->kind == REDUCE_SCATTER, turns = scatter ? comm->ranks : 1;
  for (int turn = 0; turn < turns; turn++) {
    int target = scatter ? turn : call->kind == REDUCE ? call->peer : -1;
    const char *from = call->from + turn * call->count * width;
    for (size_t done = 0; done < call->count; done += most) {
      size_t count = call->count - done < most ? call->count - done : most;
      if ((result = part(call, from + done * width, call->to + done * width, count, source, target))) return result;
    }
  }
  return ncclSuccess;
}

// ---- messages: those of a group progress together, in the order of the calls between two ranks

static int waits_for_earlier(const Call *calls, int number) {
  for (int earlier = 0; earlier < number; earlier++)
    if (calls[earlier].kind == calls[number].kind && calls[earlier].comm == calls[number].comm &&
        calls[earlier].peer == calls[number].peer && calls[earlier].moved < UINT64_MAX)
      return 1;
  return 0;
}

// Returns whether anything moved; a finished message has moved UINT64_MAX bytes.
static int progress(Call *call, ncclResult_t *result) {
  ncclComm_t comm = call->comm;
  int sends = call->kind == SEND, from = sends ? comm->rank : call->peer, to = sends ? call->peer : comm->rank;
  Box *head = &comm->shared->boxes[from][to];
  uint64_t total = call->count * bytes_of(call->type);
  if (atomic_load(&head->full) == (uint32_t)sends) return 0;
  if (sends) {
    head->total = total;
    head->bytes = total - call->moved < BOX_BYTES ? total - call->moved : BOX_BYTES;
    memcpy(box(comm, from, to), call->from + call->moved, head->bytes);
  } else if (head->total != total) {
    *result = refuse(ncclInvalidUsage, "rank %d expects %lu bytes from rank %d, which sends %lu", comm->rank, total,
                     call->peer, head->total);
    return 0;
  } else {
    memcpy(call->to + call->moved, box(comm, from, to), head->bytes);
  }
  call->moved += head->bytes;
  atomic_store(&head->full, sends);
  if (call->moved == total) call->moved = UINT64_MAX;
  return 1;
}

static ncclResult_t messages(Call *calls, int count) {
  ncclResult_t result = ncclSuccess;
  double until = now() + patience();
  for (int left = count; left;) {
    int moved = left = 0;
    for (int number = 0; number < count; number++) {
      Call *call = &calls[number];
      if (call->moved == UINT64_MAX || call->kind < SEND) continue;
      left++;
      if (call->comm->aborted) return refuse(ncclSystemError, "rank %d: the communicator was aborted", call->comm->rank);
      if (!waits_for_earlier(calls, number)) moved |= progress(call, &result);
      if (result) return result;
    }
    if (moved) until = now() + patience();
    if (now() > until) return refuse(ncclSystemError, "a message has no other end");
    if (left && !moved) nap();
  }
  return result;
}

// ---- groups: calls wait for the end of the outermost group

static ncclResult_t run(Call *calls, int count) {
  ncclResult_t result = ncclSuccess;
  for (int number = 0; !result && number < count; number++)
    if (calls[number].kind < SEND) result = collective(&calls[number]);
  return result ? result : messages(calls, count);
}

static ncclResult_t enter(Call call) {
  if (call.peer < 0 || call.peer >= call.comm->ranks)
    return refuse(ncclInvalidArgument, "%s: there is no rank %d", names[call.kind], call.peer);
  if (call.kind >= SEND) {
    ncclResult_t result = on_own_device(&call, call.kind == SEND ? call.from : call.to);
    if (result) return result;
  }
  if (!depth) return run(&call, 1);
  if (!queue) queue = calloc(MOST_CALLS, sizeof *queue);
  if (queued == MOST_CALLS) return refuse(ncclInvalidUsage, "more than %d calls in a group", MOST_CALLS);
  queue[queued++] = call;
  return ncclSuccess;
}

ncclResult_t ncclGroupStart(void) {
  depth++;
  return ncclSuccess;
}
ncclResult_t ncclGroupEnd(void) {
  if (!depth) return refuse(ncclInvalidUsage, "the end of a group that has no start");
  if (--depth) return ncclSuccess;
  int count = queued;
  queued = 0;
  return run(queue, count);
}
ncclResult_t ncclGroupSimulateEnd(ncclSimInfo_t *info) { return ncclGroupEnd(); }

#define CALL(...) return enter((Call){__VA_ARGS__})
ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream) {
  CALL(ALL_REDUCE, from, to, count, type, op, 0, comm);
}
ncclResult_t ncclReduce(const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t op, int root,
                        ncclComm_t comm, cudaStream_t stream) {
  CALL(REDUCE, from, to, count, type, op, root, comm);
}
ncclResult_t ncclBroadcast(const void *from, void *to, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                           cudaStream_t stream) {
  CALL(BROADCAST, from, to, count, type, ncclSum, root, comm);
}
ncclResult_t ncclBcast(void *values, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                       cudaStream_t stream) {
  CALL(BROADCAST, values, values, count, type, ncclSum, root, comm);
}
ncclResult_t ncclAllGather(const void *from, void *to, size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
  CALL(ALL_GATHER, from, to, count, type, ncclSum, 0, comm);
}
ncclResult_t ncclReduceScatter(const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t op,
                               ncclComm_t comm, cudaStream_t stream) {
  CALL(REDUCE_SCATTER, from, to, count, type, op, 0, comm);
}
ncclResult_t ncclSend(const void *from, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  CALL(SEND, from, NULL, count, type, ncclSum, peer, comm);
}
ncclResult_t ncclRecv(void *to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  CALL(RECEIVE, NULL, to, count, type, ncclSum, peer, comm);
}
ncclResult_t ncclAlltoAll(const void *from, void *to, size_t count, ncclDataType_t type, ncclComm_t comm,
                          cudaStream_t stream) {
  size_t bytes = count * bytes_of(type);
  ncclGroupStart();
  ncclResult_t result = ncclSuccess;
  for (int rank = 0; !result && rank < comm->ranks; rank++) {
    result = ncclSend((const char *)from + rank * bytes, count, type, rank, comm, stream);
    if (!result) result = ncclRecv((char *)to + rank * bytes, count, type, rank, comm, stream);
  }
  ncclResult_t after = ncclGroupEnd();
  return result ? result : after;
}
ncclResult_t ncclRedOpCreatePreMulSum(ncclRedOp_t *op, void *scalar, ncclDataType_t type,
                                      ncclScalarResidence_t residence, ncclComm_t comm) {
  return new_scale(op, scalar, type);
}
ncclResult_t ncclRedOpDestroy(ncclRedOp_t op, ncclComm_t comm) { return drop_scale(op); }

