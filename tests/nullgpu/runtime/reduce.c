// Reductions of every rank's values, in order of rank. Half precision adds in fp32 and rounds once; NCCL rounds at every
// hop of its ring, so its sums over three and more ranks may differ from these in the last bit.
#include "reduce.h"

#include <math.h>
#include <string.h>

static double scales[MOST_SCALES];  // of ncclRedOpCreatePreMulSum
static char taken[MOST_SCALES];

size_t bytes_of(ncclDataType_t type) {
  switch (type) {
    case ncclInt8: case ncclUint8: return 1;
    case ncclFloat16: case ncclBfloat16: return 2;
    case ncclInt32: case ncclUint32: case ncclFloat32: return 4;
    case ncclInt64: case ncclUint64: case ncclFloat64: return 8;
    default: return 1;  // 8-bit floats, which are moved and never reduced
  }
}

static float from_bf16(uint16_t bits) {
  uint32_t wide = (uint32_t)bits << 16;
  float value;
  memcpy(&value, &wide, 4);
  return value;
}
static uint16_t to_bf16(float value) {  // to nearest, ties to even
  uint32_t bits;
  memcpy(&bits, &value, 4);
  if (value != value) return 0x7FC0;
  return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
}

ncclResult_t new_scale(ncclRedOp_t *op, void *scalar, ncclDataType_t type) {
  int number = 0;
  while (number < MOST_SCALES && taken[number]) number++;
  if (number == MOST_SCALES) return refuse(ncclInvalidUsage, "more than %d reductions of one's own", MOST_SCALES);
  double value;
  switch (type) {
    case ncclFloat64: value = *(double *)scalar; break;
    case ncclFloat32: value = *(float *)scalar; break;
    case ncclFloat16: value = (double)*(_Float16 *)scalar; break;
    case ncclBfloat16: value = from_bf16(*(uint16_t *)scalar); break;
    default: return refuse(ncclInvalidArgument, "a scaled sum of type %d", type);
  }
  taken[number] = 1;
  scales[number] = value;
  *op = (ncclRedOp_t)(ncclNumOps + number);
  return ncclSuccess;
}
ncclResult_t drop_scale(ncclRedOp_t op) {
  if (op >= ncclNumOps && op < ncclNumOps + MOST_SCALES) taken[op - ncclNumOps] = 0;
  return ncclSuccess;
}
double scale_of(ncclRedOp_t op) { return op >= ncclNumOps ? scales[op - ncclNumOps] : 1; }

// NaN wins a maximum or minimum, as in NCCL.
#define LARGER(a, b) ((a) != (a) || (a) > (b) ? (a) : (b))
#define SMALLER(a, b) ((a) != (a) || (a) < (b) ? (a) : (b))

#define REDUCE(NAME, STORED, WIDE, LOAD, STORE)                                                  \
  static void NAME(STORED *out, char **from, int ranks, size_t count, ncclRedOp_t op) {          \
    for (size_t i = 0; i < count; i++) {                                                         \
      WIDE value = LOAD(((STORED *)from[0])[i]);                                                 \
      for (int rank = 1; rank < ranks; rank++) {                                                 \
        WIDE other = LOAD(((STORED *)from[rank])[i]);                                            \
        switch (op) {                                                                            \
          case ncclProd: value = value * other; break;                                           \
          case ncclMax: value = LARGER(value, other); break;                                     \
          case ncclMin: value = SMALLER(value, other); break;                                    \
          default: value = value + other;                                                        \
        }                                                                                        \
      }                                                                                          \
      if (op == ncclAvg) value = value / (WIDE)ranks;                                            \
      out[i] = STORE(value);                                                                     \
    }                                                                                            \
  }
#define SAME(value) (value)
#define TO_HALF(value) ((_Float16)(value))
REDUCE(reduce_i8, int8_t, int8_t, SAME, SAME)
REDUCE(reduce_u8, uint8_t, uint8_t, SAME, SAME)
REDUCE(reduce_i32, int32_t, int32_t, SAME, SAME)
REDUCE(reduce_u32, uint32_t, uint32_t, SAME, SAME)
REDUCE(reduce_i64, int64_t, int64_t, SAME, SAME)
REDUCE(reduce_u64, uint64_t, uint64_t, SAME, SAME)
REDUCE(reduce_f16, _Float16, float, (float), TO_HALF)
REDUCE(reduce_bf16, uint16_t, float, from_bf16, to_bf16)
REDUCE(reduce_f32, float, float, SAME, SAME)
REDUCE(reduce_f64, double, double, SAME, SAME)

// What a rank does to its own values before a scaled sum.
void scale(void *values, size_t count, ncclDataType_t type, double factor) {
  for (size_t i = 0; i < count; i++) switch (type) {
      case ncclFloat64: ((double *)values)[i] *= factor; break;
      case ncclFloat32: ((float *)values)[i] *= (float)factor; break;
      case ncclFloat16: ((_Float16 *)values)[i] = (_Float16)((float)((_Float16 *)values)[i] * (float)factor); break;
      default: ((uint16_t *)values)[i] = to_bf16(from_bf16(((uint16_t *)values)[i]) * (float)factor);
    }
}

// Each rank has already multiplied its values by its own scale.
ncclResult_t reduce(void *out, char **from, int ranks, size_t count, ncclDataType_t type, ncclRedOp_t op) {
  switch (type) {
    case ncclInt8: reduce_i8(out, from, ranks, count, op); break;
    case ncclUint8: reduce_u8(out, from, ranks, count, op); break;
    case ncclInt32: reduce_i32(out, from, ranks, count, op); break;
    case ncclUint32: reduce_u32(out, from, ranks, count, op); break;
    case ncclInt64: reduce_i64(out, from, ranks, count, op); break;
    case ncclUint64: reduce_u64(out, from, ranks, count, op); break;
    case ncclFloat16: reduce_f16(out, from, ranks, count, op); break;
    case ncclBfloat16: reduce_bf16(out, from, ranks, count, op); break;
    case ncclFloat32: reduce_f32(out, from, ranks, count, op); break;
    case ncclFloat64: reduce_f64(out, from, ranks, count, op); break;
    default: return refuse(ncclInvalidArgument, "a reduction of type %d", type);
  }
  return ncclSuccess;
}
