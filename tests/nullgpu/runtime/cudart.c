// A CUDA runtime with NULLGPU_COUNT devices whose memory is the host's. It never runs a kernel: a launch is an error.
//
// Preloaded, it stands before the real libcudart, whose symbols torch asks for. Everything is synchronous, so streams
// and events have nothing to do. Only what torch calls in this project's runs is here; for the rest the real library
// answers that there is no driver.
#define _GNU_SOURCE
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define API cudaError_t
#define OK return cudaSuccess

static __thread int current = 0;
static __thread cudaError_t last = cudaSuccess;

static cudaError_t fail(cudaError_t error) {
  last = error;
  return error;
}

static int devices(void) {
  const char *text = getenv("NULLGPU_COUNT");
  return text ? atoi(text) : 1;
}

// ---- devices

API cudaGetDeviceCount(int *count) { *count = devices(); OK; }
API cudaGetDevice(int *device) { *device = current; OK; }
API cudaSetDevice(int device) {
  if (device < 0 || device >= devices()) return fail(cudaErrorInvalidDevice);
  current = device;
  OK;
}
API cudaInitDevice(int device, unsigned flags, unsigned more) { OK; }

API cudaGetDeviceProperties(struct cudaDeviceProp *found, int device) {
  if (device < 0 || device >= devices()) return fail(cudaErrorInvalidDevice);
  memset(found, 0, sizeof *found);
  strcpy(found->name, "Null GPU");
  found->totalGlobalMem = 80ull << 30;
  found->major = 9;
  found->minor = 0;
  found->multiProcessorCount = 132;
  found->warpSize = 32;
  found->maxThreadsPerBlock = 1024;
  found->maxThreadsPerMultiProcessor = 2048;
  found->sharedMemPerBlock = 48 << 10;
  found->sharedMemPerBlockOptin = 227 << 10;
  found->sharedMemPerMultiprocessor = 228 << 10;
  found->regsPerBlock = found->regsPerMultiprocessor = 65536;
  found->l2CacheSize = 50 << 20;
  found->maxThreadsDim[0] = found->maxThreadsDim[1] = 1024;
  found->maxThreadsDim[2] = 64;
  found->maxGridSize[0] = 2147483647;
  found->maxGridSize[1] = found->maxGridSize[2] = 65535;
  found->textureAlignment = 512;
  found->unifiedAddressing = 1;
  found->pciBusID = device;
  OK;
}

API cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr which, int device) {
  switch (which) {
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
    case cudaDevAttrMultiProcessorCount: *value = 132; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 227 << 10; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = 48 << 10; break;
    case cudaDevAttrMaxGridDimX: *value = 2147483647; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
    default: *value = 1;
  }
  OK;
}
API cudaDeviceCanAccessPeer(int *can, int device, int peer) { *can = 0; OK; }
API cudaDeviceEnablePeerAccess(int peer, unsigned flags) { OK; }
API cudaDeviceGetPCIBusId(char *text, int length, int device) { snprintf(text, length, "0000:%02x:00.0", device); OK; }
API cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  OK;
}
API cudaDeviceSynchronize(void) { OK; }
API cudaDriverGetVersion(int *version) { *version = CUDART_VERSION; OK; }
API cudaRuntimeGetVersion(int *version) { *version = CUDART_VERSION; OK; }
API cudaGetLastError(void) {
  cudaError_t error = last;
  last = cudaSuccess;
  return error;
}
API cudaPeekAtLastError(void) { return last; }
API cudaProfilerStart(void) { OK; }
API cudaProfilerStop(void) { OK; }

// ---- streams and events

static void *handle(void) { return malloc(16); }
API cudaEventCreate(cudaEvent_t *event) { *event = handle(); OK; }
API cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) { *event = handle(); OK; }
API cudaEventDestroy(cudaEvent_t event) { free(event); OK; }
API cudaEventElapsedTime(float *milliseconds, cudaEvent_t begin, cudaEvent_t end) { *milliseconds = 1; OK; }
API cudaEventQuery(cudaEvent_t event) { OK; }
API cudaEventRecord(cudaEvent_t event, cudaStream_t stream) { OK; }
API cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) { OK; }
API cudaEventSynchronize(cudaEvent_t event) { OK; }
API cudaStreamCreate(cudaStream_t *stream) { *stream = handle(); OK; }
API cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) { *stream = handle(); OK; }
API cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority) { *stream = handle(); OK; }
API cudaStreamDestroy(cudaStream_t stream) { OK; }
API cudaStreamQuery(cudaStream_t stream) { OK; }
API cudaStreamSynchronize(cudaStream_t stream) { OK; }
API cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) { OK; }
API cudaStreamGetPriority(cudaStream_t stream, int *priority) { *priority = 0; OK; }
API cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
  *status = cudaStreamCaptureStatusNone;
  OK;
}
API cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *status, unsigned long long *id,
                             cudaGraph_t *graph, const cudaGraphNode_t **nodes, const cudaGraphEdgeData **edges,
                             size_t *count) {
  *status = cudaStreamCaptureStatusNone;
  if (id) *id = 0;
  OK;
}
API cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t call, void *data, unsigned flags) {
  call(stream, cudaSuccess, data);
  OK;
}
API cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t call, void *data) { call(data); OK; }
API cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode) { OK; }

// ---- memory: ranges are remembered, so that a pointer's device and kind can be told

#define MOST_RANGES 65536
typedef struct {
  char *begin;
  size_t bytes;
  enum cudaMemoryType kind;
  int device;
} Range;
static Range ranges[MOST_RANGES];
static int used = 0;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void remember(void *begin, size_t bytes, enum cudaMemoryType kind) {
  pthread_mutex_lock(&lock);
  int slot = 0;
  while (slot < used && ranges[slot].begin) slot++;
  if (slot == MOST_RANGES) abort();
  if (slot == used) used++;
  ranges[slot] = (Range){begin, bytes, kind, current};
  pthread_mutex_unlock(&lock);
}
static void forget(void *begin) {
  pthread_mutex_lock(&lock);
  for (int slot = 0; slot < used; slot++)
    if (ranges[slot].begin == begin) {
      ranges[slot].begin = NULL;
      break;
    }
  pthread_mutex_unlock(&lock);
}

#define MOST_FILLED (64u << 20)  // bytes
static cudaError_t allocate(void **begin, size_t bytes, size_t alignment, enum cudaMemoryType kind) {
  if (posix_memalign(begin, alignment, bytes ? bytes : alignment)) return fail(cudaErrorMemoryAllocation);
  // reading what nobody wrote must not look like zeros; but DeepSpeed's buffers of GBs, of which a test uses KBs, shall
  // take no memory
  memset(*begin, 0xCD, bytes < MOST_FILLED ? bytes : MOST_FILLED);
  remember(*begin, bytes, kind);
  OK;
}
static cudaError_t release(void *begin) {
  if (begin) {
    forget(begin);
    free(begin);
  }
  OK;
}
API cudaMalloc(void **begin, size_t bytes) { return allocate(begin, bytes, 512, cudaMemoryTypeDevice); }
API cudaFree(void *begin) { return release(begin); }
API cudaHostAlloc(void **begin, size_t bytes, unsigned flags) {
  return allocate(begin, bytes, 4096, cudaMemoryTypeHost);
}
API cudaMallocHost(void **begin, size_t bytes) { return cudaHostAlloc(begin, bytes, 0); }
API cudaFreeHost(void *begin) { return release(begin); }
API cudaHostRegister(void *begin, size_t bytes, unsigned flags) {
  remember(begin, bytes, cudaMemoryTypeHost);
  OK;
}
API cudaHostUnregister(void *begin) { forget(begin); OK; }
API cudaMemGetInfo(size_t *available, size_t *total) {
  *available = 70ull << 30;
  *total = 80ull << 30;
  OK;
}

#define COPY(to, from, bytes) memmove(to, from, bytes); OK
API cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind) { COPY(to, from, bytes); }
API cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream) {
  COPY(to, from, bytes);
}
API cudaMemcpyPeerAsync(void *to, int there, const void *from, int here, size_t bytes, cudaStream_t stream) {
  COPY(to, from, bytes);
}
API cudaMemset(void *to, int value, size_t bytes) { memset(to, value, bytes); OK; }
API cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream) { memset(to, value, bytes); OK; }

API cudaPointerGetAttributes(struct cudaPointerAttributes *found, const void *pointer) {
  memset(found, 0, sizeof *found);
  found->device = -2;
  pthread_mutex_lock(&lock);
  for (int slot = 0; slot < used; slot++) {
    Range *range = &ranges[slot];
    if (range->begin && (char *)pointer >= range->begin && (char *)pointer < range->begin + range->bytes) {
      found->type = range->kind;
      found->device = range->device;
      found->devicePointer = found->hostPointer = (void *)pointer;
      break;
    }
  }
  pthread_mutex_unlock(&lock);
  OK;
}

// ---- kernels: an operation that comes here was not computed on the host, so its result would be wrong in silence

static __thread int ignored = 0;
void nullgpu_ignore_launches(int yes) { ignored = yes; }  // for a result that nobody reads

static cudaError_t refuse(const void *function) {
  if (ignored) OK;
  Dl_info where = {0};
  dladdr(function, &where);
  fprintf(stderr, "null GPU: a kernel is launched (%s): nothing here can compute it\n",
          where.dli_sname ? where.dli_sname : "unnamed");
  return fail(cudaErrorNotSupported);
}
API cudaLaunchKernel(const void *function, dim3 grid, dim3 block, void **arguments, size_t shared, cudaStream_t stream) {
  return refuse(function);
}
API __cudaLaunchKernel(void *function, dim3 grid, dim3 block, void **arguments, size_t shared, cudaStream_t stream) {
  return refuse(function);
}
API __cudaLaunchKernel_ptsz(void *function, dim3 grid, dim3 block, void **arguments, size_t shared,
                            cudaStream_t stream) {
  return refuse(function);
}
API cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *function, void **arguments) {
  return refuse(function);
}
API cudaFuncGetAttributes(struct cudaFuncAttributes *found, const void *function) {
  memset(found, 0, sizeof *found);
  found->maxThreadsPerBlock = 1024;
  found->numRegs = 32;
  found->ptxVersion = found->binaryVersion = 90;
  OK;
}
API cudaFuncSetAttribute(const void *function, enum cudaFuncAttribute which, int value) { OK; }
API cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *function, int size, size_t shared) {
  *blocks = 2;
  OK;
}
API cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *function, int size, size_t shared,
                                                           unsigned flags) {
  *blocks = 2;
  OK;
}

// ---- the driver, by name: the stand-in of libcuda answers, and refuses what it does not know

static int unknown_driver_call(void) { return 801; }  // CUDA_ERROR_NOT_SUPPORTED
API cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version, unsigned long long flags,
                                     enum cudaDriverEntryPointQueryResult *result) {
  void *driver = dlopen("libcuda.so.1", RTLD_LAZY);
  *function = driver ? dlsym(driver, name) : NULL;
  if (!*function) *function = (void *)unknown_driver_call;
  if (result) *result = cudaDriverEntryPointSuccess;
  OK;
}
