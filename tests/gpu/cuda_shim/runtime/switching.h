// From the scheduler to a fiber on its own stack, and back. For scheduler.cpp alone.
#pragma once
#include <map>

#include "runtime.h"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace cushim {
namespace {

constexpr size_t stack_bytes = 256 * 1024;

#if defined(__x86_64__)
void* scheduler_stack;
extern "C" void cushim_switch(void** save, void* load);
asm(R"(
.text
.globl cushim_switch
.type cushim_switch, @function
cushim_switch:
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
.size cushim_switch, .-cushim_switch
)");
void to_scheduler(Fiber* f) { cushim_switch(&f->stack_pointer, scheduler_stack); }
void to_fiber(Fiber* f) { cushim_switch(&scheduler_stack, f->stack_pointer); }
void prepare(Fiber* f, char* stack, void (*entry)()) {
    void** top = reinterpret_cast<void**>(stack + stack_bytes);
    *--top = nullptr;  // keeps the stack aligned as behind a call
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; i++) *--top = nullptr;
    f->stack_pointer = top;
}
#else
ucontext_t scheduler_context;
std::map<Fiber*, ucontext_t> contexts;
void to_scheduler(Fiber* f) { swapcontext(&contexts[f], &scheduler_context); }
void to_fiber(Fiber* f) { swapcontext(&scheduler_context, &contexts[f]); }
void prepare(Fiber* f, char* stack, void (*entry)()) {
    ucontext_t& context = contexts[f];
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = stack_bytes;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
}
#endif

}  // namespace
}  // namespace cushim
