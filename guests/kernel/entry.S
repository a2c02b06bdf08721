# Where Xen enters the guest after boot: exceptions, event upcalls, the failsafe and the system call callback; and how
# threads, probes and user mode are entered and left.
#
# Xen's frame, lowest address first: rcx, r11, [error code], rip, cs, rflags, rsp, ss. It becomes a `struct frame`.
    .text

    .macro TRAP vector, error
trap_\vector:
    pop %rcx
    pop %r11
    .if \error == 0
    push $0
    .endif
    push $\vector
    jmp trap_common
    .endm

trap_common:
    push %rax
    push %rcx
    push %rdx
    push %rbx
    push %rbp
    push %rsi
    push %rdi
    push %r8
    push %r9
    push %r10
    push %r11
    push %r12
    push %r13
    push %r14
    push %r15
    pushfq
    cld
    mov %rsp, %rdi
    mov %rsp, %rbx
    and $-16, %rsp
    call trap
    mov %rbx, %rsp
    .globl frame_return                 # rsp -> struct frame
frame_return:
    add $8, %rsp                        # rflags at entry
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rdi
    pop %rsi
    pop %rbp
    pop %rbx
    pop %rdx
    pop %rcx
    pop %rax
    add $16, %rsp                       # vector and error code
    push $0                             # flags of the iret hypercall
    jmp hypercall_page + 23 * 32

    .globl frame_enter                  # void frame_enter(struct frame *): continue there, for good
frame_enter:
    mov %rdi, %rsp
    jmp frame_return

    .irp v, 0,1,2,3,4,5,6,7,9,15,16,18,19
    TRAP \v, 0
    .endr
    .irp v, 8,10,11,12,13,14,17,21
    TRAP \v, 1
    .endr
    TRAP 32, 0                          # "vectors" of our own numbering from here: int 0x20 is not used by anybody
    TRAP 33, 0
    TRAP 128, 0
    TRAP 256, 0                         # event upcall
    TRAP 258, 0                         # system call from user mode
failsafe:                               # rcx, r11, ds, es, fs, gs, then as for an upcall
    pop %rcx
    pop %r11
    add $32, %rsp
    push $0
    push $257
    jmp trap_common

    .section .rodata
    .globl trap_entries                 # vector, entry; ends with entry 0
    .balign 8
trap_entries:
    .irp v, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,21,32,33,128
    .quad \v, trap_\v
    .endr
    .quad 0, 0
    .globl upcall_entry, failsafe_entry, syscall_entry
upcall_entry:   .quad trap_256
failsafe_entry: .quad failsafe
syscall_entry:  .quad trap_258
    .text

# void thread_swap(u64 *save_rsp, u64 load_rsp): leave one thread's stack for another's.
    .globl thread_swap
thread_swap:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret

# void probe_run(struct probe *p): load p's registers, call p->code, store the registers. A trap on the way is recorded by trap()
# and continues at probe_resume. Offsets as in kernel.h: rax rbx rcx rdx rsi rdi rbp r8..r15, then code.
    .globl probe_run, probe_resume
probe_run:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    pushfq
    mov %rdi, probe_current
    mov %rsp, probe_rsp
    mov 0(%rdi), %rax
    mov 8(%rdi), %rbx
    mov 16(%rdi), %rcx
    mov 24(%rdi), %rdx
    mov 32(%rdi), %rsi
    mov 48(%rdi), %rbp
    mov 56(%rdi), %r8
    mov 64(%rdi), %r9
    mov 72(%rdi), %r10
    mov 80(%rdi), %r11
    mov 88(%rdi), %r12
    mov 96(%rdi), %r13
    mov 104(%rdi), %r14
    mov 112(%rdi), %r15
    pushq 120(%rdi)
    mov 40(%rdi), %rdi
    call *(%rsp)
    mov %rdi, (%rsp)
    mov probe_current, %rdi
    mov %rax, 0(%rdi)
    mov %rbx, 8(%rdi)
    mov %rcx, 16(%rdi)
    mov %rdx, 24(%rdi)
    mov %rsi, 32(%rdi)
    mov %rbp, 48(%rdi)
    mov %r8,  56(%rdi)
    mov %r9,  64(%rdi)
    mov %r10, 72(%rdi)
    mov %r11, 80(%rdi)
    mov %r12, 88(%rdi)
    mov %r13, 96(%rdi)
    mov %r14, 104(%rdi)
    mov %r15, 112(%rdi)
    pop %rax
    mov %rax, 40(%rdi)
probe_resume:
    mov probe_rsp, %rsp
    movq $0, probe_current
    popfq
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret

# Plain memory accesses for try_read and try_write: rdi = address, rax = value.
    .globl probe_load, probe_store, probe_jump
probe_load:
    mov (%rdi), %rax
    ret
probe_store:
    mov %rax, (%rdi)
    ret
probe_jump:
    jmp *%rdi

# s64 hypercall(u64 number, u64 a, u64 b, u64 c, u64 d, u64 e): any number, through the page.
    .globl hypercall
hypercall:
    mov %rdi, %rax
    shl $5, %rax
    add $hypercall_page, %rax
    mov %rsi, %rdi
    mov %rdx, %rsi
    mov %rcx, %rdx
    mov %r8, %r10
    mov %r9, %r8
    jmp *%rax

# s64 hypercall_bare(u64 number, u64 a, u64 b, u64 c): without the page.
    .globl hypercall_bare
hypercall_bare:
    mov %rdi, %rax
    mov %rsi, %rdi
    mov %rdx, %rsi
    mov %rcx, %rdx
    syscall
    ret

    .bss
    .balign 8
    .globl probe_current, probe_rsp
probe_current: .skip 8
probe_rsp:     .skip 8
    .section .note.GNU-stack, "", @progbits
