// A thread of a block as a fiber: a stack of its own, and what it waits for.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// Keep what a function has to keep on this stack, whose pointer goes to *save; go on on another.
extern "C" void emulator_switch(void** save, void* load);
asm(R"(
.text
.weak emulator_switch
.type emulator_switch,@function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulator_switch,.-emulator_switch
)");

namespace emulator {

struct Index {
  unsigned x = 0;
};

enum class State { READY, SHUFFLE, BARRIER, DONE };

struct Fiber {
  static constexpr size_t STACK = size_t(1) << 17;
  static constexpr int KEPT_REGISTERS = 6;

  Index thread;
  State state = State::DONE;
  int line = 0;       // where it waits
  unsigned mask = 0;  // of its shuffle
  int source = 0;     // the lane that its shuffle reads
  uint64_t word = 0;  // what it brings to a shuffle, then what it takes away
  char* stack = nullptr;
  void* stack_pointer = nullptr;
  void* fake_stack = nullptr;  // AddressSanitizer's

  // Make it start with `entry`, which never returns, at the next switch to it.
  void prepare(void (*entry)()) {
    if (!stack) {
      void* const memory =
          mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (memory == MAP_FAILED) abort();
      stack = static_cast<char*>(memory);
    }
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(stack, STACK);
#endif
    void** top = reinterpret_cast<void**>(stack + STACK);
    *--top = nullptr;  // at the entry of a function rsp % 16 is 8
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < KEPT_REGISTERS; ++i) *--top = nullptr;
    stack_pointer = top;
    fake_stack = nullptr;
    state = State::READY;
  }
};

// The stack that the fibers are started from. AddressSanitizer has to be told of every switch.
struct Home {
  void* stack_pointer = nullptr;
  void* fake_stack = nullptr;
  const void* bottom = nullptr;
  size_t size = 0;

  void go_to(Fiber& fiber) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&fake_stack, fiber.stack, Fiber::STACK);
#endif
    emulator_switch(&stack_pointer, fiber.stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
  }

  void arrive() {  // first thing in a fiber's entry
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
#endif
  }

  void come_from(Fiber& fiber) {
#if defined(__SANITIZE_ADDRESS__)
    void** const kept = fiber.state == State::DONE ? nullptr : &fiber.fake_stack;
    __sanitizer_start_switch_fiber(kept, bottom, size);
#endif
    emulator_switch(&fiber.stack_pointer, stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fiber.fake_stack, nullptr, nullptr);
#endif
  }
};

}  // namespace emulator
