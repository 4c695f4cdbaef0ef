// Runs a kernel: its blocks one after another, the threads of a block as fibers. A fiber runs until
// it comes to a shuffle or a barrier, and goes on when all are there that have to be: the lanes of
// a warp at the same shuffle, all threads of the block at the same barrier. What cannot go on
// (divergence, an early return) ends the process with a report.
#pragma once

#include "fiber.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

namespace emulator {

constexpr unsigned WARP = 32;
constexpr unsigned MAX_BLOCK = 1024;
constexpr unsigned MAX_GRID = 2147483647;
constexpr unsigned MAX_PERMUTED_GRID = 1u << 20;

inline std::string from_environment(const char* name, const char* otherwise) {
  const char* value = getenv(name);
  return value ? value : otherwise;
}

struct Access {  // the last accesses to an element of global memory in this launch, see memory.h
  int64_t writer = -1, reader = -1;
  int64_t write_epoch = 0, read_epoch = 0;
  int64_t write_block = -1, read_block = -1;
};

struct Machine {
  std::vector<Fiber> fibers;
  Fiber* current = nullptr;
  Home home;
  Index grid, block, block_index;
  int64_t block_number = 0;  // of all blocks ever
  int64_t epoch = 0;         // barriers of this block so far
  int64_t launches = 0, shuffles = 0, barriers = 0;
  const std::function<void()>* body = nullptr;
  std::string kernel;
  std::unordered_map<uintptr_t, Access> memory;
  const bool watch = from_environment("EMULATOR_WATCH", "") == "1";
  const std::string order = from_environment("EMULATOR_ORDER", "forward");
  std::mt19937_64 dice{std::hash<std::string>{}(order)};

  int64_t thread_number() const { return block_number * MAX_BLOCK + current->thread.x; }
};

inline Machine& machine() {
  static Machine* const instance = new Machine;
  return *instance;
}

[[noreturn]] inline void fail(const std::string& what) {
  const Machine& m = machine();
  fprintf(stderr, "\nEMULATOR: %s\n", what.c_str());
  if (m.current) {
    fprintf(
        stderr,
        "  block %u of %u, thread %u of %u, after %ld barriers, waited last in line %d\n",
        m.block_index.x,
        m.grid.x,
        m.current->thread.x,
        m.block.x,
        long(m.epoch),
        m.current->line);
  }
  fprintf(stderr, "  %s\n", m.kernel.c_str());
  fflush(stderr);
  abort();
}

[[noreturn]] inline void fail_in(Fiber& fiber, const std::string& what) {
  machine().current = &fiber;
  fail(what);
}

inline void run_thread() {
  Machine& m = machine();
  m.home.arrive();
  (*m.body)();
  m.current->state = State::DONE;
  m.home.come_from(*m.current);
  abort();
}

inline std::vector<size_t> permutation(size_t n) {
  Machine& m = machine();
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), size_t(0));
  if (m.order == "reverse") std::reverse(order.begin(), order.end());
  else if (m.order != "forward") std::shuffle(order.begin(), order.end(), m.dice);
  return order;
}

// Whether all lanes are there that the shuffle of `fiber` names; they must be at the same one.
inline bool is_complete(Fiber* warp, size_t lanes, Fiber& fiber) {
  for (size_t lane = 0; lane < WARP; ++lane) {
    if (!(fiber.mask >> lane & 1)) continue;
    const std::string name = "lane " + std::to_string(lane);
    if (lane >= lanes) fail_in(fiber, "a shuffle names " + name + ", which is beyond the block");
    const Fiber& other = warp[lane];
    if (other.state == State::DONE) {
      fail_in(fiber, "a shuffle waits for " + name + ", which has returned");
    }
    if (other.state == State::BARRIER) {
      fail_in(fiber, "a shuffle waits for " + name + ", which waits at a barrier");
    }
    if (other.state != State::SHUFFLE) return false;
    if (other.line != fiber.line || other.mask != fiber.mask) {
      fail_in(fiber, name + " is at another shuffle, in line " + std::to_string(other.line));
    }
  }
  return true;
}

// Let the shuffles go on whose lanes are all there. Returns whether any did.
inline bool resolve_shuffles() {
  Machine& m = machine();
  bool any = false;
  for (size_t i = 0; i < m.block.x; ++i) {
    Fiber& fiber = m.fibers[i];
    if (fiber.state != State::SHUFFLE) continue;
    const size_t first = i / WARP * WARP, lanes = std::min<size_t>(WARP, m.block.x - first);
    Fiber* const warp = &m.fibers[first];
    const unsigned mask = fiber.mask;
    if (!(mask >> (i - first) & 1)) fail_in(fiber, "a lane is not in the mask of its own shuffle");
    if (!is_complete(warp, lanes, fiber)) continue;
    uint64_t words[WARP] = {};
    for (size_t lane = 0; lane < lanes; ++lane) words[lane] = warp[lane].word;
    for (size_t lane = 0; lane < lanes; ++lane) {
      if (!(mask >> lane & 1)) continue;
      const int source = warp[lane].source;
      if (!(mask >> source & 1)) fail_in(warp[lane], "a shuffle reads a lane outside its mask");
      warp[lane].word = words[source];
      warp[lane].state = State::READY;
    }
    ++m.shuffles;
    any = true;
  }
  return any;
}

// All threads wait: let the barrier go, if it is one. Returns false where all have returned.
inline bool resolve_barrier() {
  Machine& m = machine();
  const auto begin = m.fibers.begin(), end = begin + m.block.x;
  const auto count = [&](State state) {
    return std::count_if(begin, end, [&](const Fiber& f) { return f.state == state; });
  };
  const int64_t done = count(State::DONE), waiting = count(State::BARRIER);
  if (done == int64_t(m.block.x)) return false;
  if (waiting != int64_t(m.block.x)) {
    fail(
        std::to_string(waiting) + " threads wait at a barrier, " + std::to_string(done) +
        " have returned, the others wait elsewhere");
  }
  for (auto fiber = begin; fiber != end; ++fiber) {
    if (fiber->line != begin->line) fail_in(*fiber, "threads are at different barriers");
    fiber->state = State::READY;
  }
  ++m.epoch;
  ++m.barriers;
  return true;
}

inline void run_block() {
  Machine& m = machine();
  m.epoch = 0;
  ++m.block_number;
  for (size_t i = 0; i < m.block.x; ++i) {
    m.fibers[i].thread.x = i;
    m.fibers[i].prepare(run_thread);
  }
  do {
    for (size_t i : permutation(m.block.x)) {
      if (m.fibers[i].state != State::READY) continue;
      m.current = &m.fibers[i];
      m.home.go_to(*m.current);
      m.current = nullptr;
    }
  } while (resolve_shuffles() || resolve_barrier());
}

inline void launch(
    unsigned grid, unsigned block, const char* kernel, const std::function<void()>& body) {
  Machine& m = machine();
  if (m.current) fail("a launch within a kernel");
  m.kernel = kernel;
  if (grid == 0 || block == 0 || block > MAX_BLOCK || grid > MAX_GRID) {
    fail("cannot launch " + std::to_string(grid) + " blocks of " + std::to_string(block));
  }
  if (m.fibers.size() < block) m.fibers.resize(block);
  m.grid.x = grid;
  m.block.x = block;
  m.body = &body;
  m.memory.clear();
  ++m.launches;
  const bool in_order = m.order == "forward" || grid > MAX_PERMUTED_GRID;
  const auto blocks = in_order ? std::vector<size_t>() : permutation(grid);
  for (unsigned i = 0; i < grid; ++i) {
    m.block_index.x = in_order ? i : blocks[i];
    run_block();
  }
}

inline void barrier(int line) {
  Fiber& fiber = *machine().current;
  fiber.line = line;
  fiber.state = State::BARRIER;
  machine().home.come_from(fiber);
}

template <typename V>
V shuffle(unsigned mask, V value, int source, int line) {
  static_assert(sizeof(V) <= sizeof(Fiber::word));
  Fiber& fiber = *machine().current;
  fiber.line = line;
  fiber.mask = mask;
  fiber.source = source;
  fiber.word = 0;
  memcpy(&fiber.word, &value, sizeof(V));
  fiber.state = State::SHUFFLE;
  machine().home.come_from(fiber);
  memcpy(&value, &fiber.word, sizeof(V));
  return value;
}

inline int lane() {
  return machine().current->thread.x % WARP;
}

}  // namespace emulator
