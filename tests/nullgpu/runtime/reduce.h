// Reductions of every rank's values, in order of rank.
#pragma once
#include "meeting.h"

#define MOST_SCALES 64

size_t bytes_of(ncclDataType_t type);
ncclResult_t new_scale(ncclRedOp_t *op, void *scalar, ncclDataType_t type);
ncclResult_t drop_scale(ncclRedOp_t op);
double scale_of(ncclRedOp_t op);
ncclResult_t reduce(void *out, char **from, int ranks, size_t count, ncclDataType_t type, ncclRedOp_t op);
void scale(void *values, size_t count, ncclDataType_t type, double factor);
