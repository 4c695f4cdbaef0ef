// A CUDA device in a few hundred lines of C++: enough to run the kernels of csrc/cuda on the CPU,
// and to see what a GPU would do wrong silently. Found instead of NVIDIA's <cuda_runtime.h> by
// what translate.py makes of csrc/cuda/ops.cu. x86-64 only.
//
//   fiber.h     a thread of a block: a stack of its own
//   machine.h   blocks one after another; shuffles, barriers, launches
//   memory.h    what a load, a store and an element of shared memory have to keep to
//
// Seen: wrong values, misaligned words, lanes missing at a shuffle, threads missing at a barrier,
// races, shared memory read before it was written, a launch beyond the limits; what is out of
// bounds, by AddressSanitizer. Not seen: a memory model finer than barriers, faults of nvcc, speed.
//
// Environment: EMULATOR_ORDER (forward, reverse or a seed) permutes blocks and threads, so that
// results that hang on an order differ; EMULATOR_WATCH=1 looks for races on global memory, too;
// EMULATOR_GRID limits the blocks of a launch, so that rows are taken in turns.
#pragma once

#include "fiber.h"
#include "machine.h"
#include "memory.h"

#define __global__
#define __device__
#define __launch_bounds__(...)
#define __shared__ static

#define threadIdx (emulator::machine().current->thread)
#define blockIdx (emulator::machine().block_index)
#define blockDim (emulator::machine().block)
#define gridDim (emulator::machine().grid)
#define __syncthreads() emulator::barrier(__LINE__)
#define __shfl_xor_sync(mask, value, offset) \
  emulator::shuffle((mask), (value), emulator::lane() ^ (offset), __LINE__)
#define __shfl_down_sync(mask, value, offset) \
  emulator::shuffle((mask), (value), std::min(31, emulator::lane() + int(offset)), __LINE__)
#define __shfl_sync(mask, value, source) emulator::shuffle((mask), (value), (source) % 32, __LINE__)

// Products that no compiler flag fuses with a sum.
inline float __fmul_rn(float a, float b) {
  float product = a * b;
  asm("" : "+x"(product));
  return product;
}
inline double __dmul_rn(double a, double b) {
  double product = a * b;
  asm("" : "+x"(product));
  return product;
}
