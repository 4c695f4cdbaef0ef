// What the threads of a kernel have to keep to in memory. Two accesses of one element by two
// threads, one of them a write, need a barrier of their block between them; across blocks nothing
// helps.
#pragma once

#include "machine.h"

namespace emulator {

constexpr int64_t NOBODY = -1, SEVERAL = -2;

// Whether an access is over that took place in a block after so many of its barriers.
inline bool is_over(int64_t block, int64_t epoch) {
  const Machine& m = machine();
  return block == m.block_number && epoch < m.epoch;
}

inline void watch_write(Access& access, int64_t thread) {
  const Machine& m = machine();
  const auto by_another = [&](int64_t last, int64_t block, int64_t epoch) {
    return last != NOBODY && last != thread && !is_over(block, epoch);
  };
  if (by_another(access.writer, access.write_block, access.write_epoch)) {
    fail("a race on global memory: written by two threads");
  }
  if (by_another(access.reader, access.read_block, access.read_epoch)) {
    fail("a race on global memory: read by one thread, written by another");
  }
  access.writer = thread, access.write_block = m.block_number, access.write_epoch = m.epoch;
}

inline void watch_read(Access& access, int64_t thread) {
  const Machine& m = machine();
  const bool is_own = access.writer == NOBODY || access.writer == thread;
  if (!is_own && !is_over(access.write_block, access.write_epoch)) {
    fail("a race on global memory: written by one thread, read by another");
  }
  const bool is_only = access.reader == NOBODY || access.reader == thread ||
      is_over(access.read_block, access.read_epoch);
  access.reader = is_only ? thread : SEVERAL;
  access.read_block = m.block_number, access.read_epoch = m.epoch;
}

// An access to a word of `count` elements of global memory.
inline void touch(const void* word, size_t count, size_t size, bool is_write) {
  Machine& m = machine();
  const auto address = reinterpret_cast<uintptr_t>(word);
  if (address % (count * size)) {
    const std::string what = is_write ? "a store" : "a load";
    fail(what + " of " + std::to_string(count * size) + " bytes is not aligned");
  }
  if (!m.watch) return;
  for (size_t i = 0; i < count; ++i) {
    Access& access = m.memory[address + i * size];
    if (is_write) watch_write(access, m.thread_number());
    else watch_read(access, m.thread_number());
  }
}

// An array in shared memory, always watched. It outlives its block, as an array in shared memory
// does not: `block` tells what an earlier one has left.
template <typename T, int N>
struct Shared {
  struct Element {
    T value;
    int64_t block = NOBODY, writer = NOBODY, reader = NOBODY;
    int64_t write_epoch = -1, read_epoch = -1;

    operator T() {
      const Machine& m = machine();
      const int64_t thread = m.thread_number();
      if (block != m.block_number) fail("shared memory is read that this block has not written");
      if (writer != thread && write_epoch == m.epoch) {
        fail("a race on shared memory: written by one thread, read by another");
      }
      reader = read_epoch == m.epoch && reader != thread ? SEVERAL : thread;
      read_epoch = m.epoch;
      return value;
    }

    Element& operator=(T written) {
      const Machine& m = machine();
      const int64_t thread = m.thread_number();
      if (block != m.block_number) write_epoch = read_epoch = -1;
      if (write_epoch == m.epoch && writer != thread) {
        fail("a race on shared memory: written by two threads");
      }
      if (read_epoch == m.epoch && reader != thread) {
        fail("a race on shared memory: read by one thread, written by another");
      }
      value = written, block = m.block_number, writer = thread, write_epoch = m.epoch;
      return *this;
    }
  };

  Element& operator[](int i) {
    if (i < 0 || i >= N) fail("an index into shared memory is out of bounds");
    return elements[i];
  }

  Element elements[N];
};

}  // namespace emulator
