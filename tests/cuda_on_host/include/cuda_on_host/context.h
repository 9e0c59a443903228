// Switching between stacks within one OS thread: a few instructions on x86-64, ucontext elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>

#include "sanitizers.h"

#if !defined(__x86_64__) && !defined(IPRM_ON_HOST_UCONTEXT)
#    define IPRM_ON_HOST_UCONTEXT
#endif

#if defined(IPRM_ON_HOST_UCONTEXT)
#    include <ucontext.h>

namespace on_host {

struct Context {
    ucontext_t saved;
};

ON_HOST_RUNTIME inline void switch_context(Context& from, Context& to) { swapcontext(&from.saved, &to.saved); }

ON_HOST_RUNTIME inline void start_context(Context& context, char* stack, size_t bytes, void (*entry)()) {
    getcontext(&context.saved);
    context.saved.uc_stack.ss_sp = stack;
    context.saved.uc_stack.ss_size = bytes;
    context.saved.uc_link = nullptr;
    makecontext(&context.saved, entry, 0);
}

}  // namespace on_host

#else

// Saves what a called function must preserve, exchanges the stack pointers, and returns on the other stack.
extern "C" void iprm_on_host_switch(void** save, void* resume);
asm(R"(
.pushsection .text
.weak iprm_on_host_switch
.hidden iprm_on_host_switch
.type iprm_on_host_switch,@function
iprm_on_host_switch:
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
.size iprm_on_host_switch, .-iprm_on_host_switch
.popsection
)");

namespace on_host {

struct Context {
    void* stack_pointer = nullptr;
};

ON_HOST_RUNTIME inline void switch_context(Context& from, Context& to) {
    iprm_on_host_switch(&from.stack_pointer, to.stack_pointer);
}

ON_HOST_RUNTIME inline void start_context(Context& context, char* stack, size_t bytes, void (*entry)()) {
    constexpr int kSavedRegisters = 6;
    auto** top = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(stack + bytes) & ~uintptr_t{15});
    *--top = nullptr;  // where a return address would be: keeps the alignment that the entry expects
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < kSavedRegisters; ++i) *--top = nullptr;
    context.stack_pointer = top;
}

}  // namespace on_host

#endif
