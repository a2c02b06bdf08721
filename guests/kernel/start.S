# Entry point, boot stack, hypercall page and the ELF notes by which Xen knows this as a PV64 kernel.
    .section .head, "ax"
    .globl _start
_start:                                 # rsi = start_info; keep every register as Xen left it, for abicheck
    mov %rax, boot_regs + 0
    mov %rbx, boot_regs + 8
    mov %rcx, boot_regs + 16
    mov %rdx, boot_regs + 24
    mov %rsi, boot_regs + 32
    mov %rdi, boot_regs + 40
    mov %rbp, boot_regs + 48
    mov %rsp, boot_regs + 56
    mov %r8,  boot_regs + 64
    mov %r9,  boot_regs + 72
    mov %r10, boot_regs + 80
    mov %r11, boot_regs + 88
    mov %r12, boot_regs + 96
    mov %r13, boot_regs + 104
    mov %r14, boot_regs + 112
    mov %r15, boot_regs + 120
    pushfq
    popq boot_regs + 128
    movw %cs, boot_regs + 136
    movw %ss, boot_regs + 144
    movw %ds, boot_regs + 152
    movw %es, boot_regs + 160
    movw %fs, boot_regs + 168
    movw %gs, boot_regs + 176
    cld
    mov $boot_stack_end, %rsp
    xor %ebp, %ebp
    mov %rsi, %rdi
    call kernel_start
    ud2

    .balign 4096
    .globl hypercall_page
hypercall_page:                         # Xen fills this page when it builds the domain
    .fill 4096, 1, 0xc3

    .section .bss
    .balign 4096
    .globl boot_stack, boot_stack_end
boot_stack:
    .skip 16384
boot_stack_end:
    .globl boot_regs
boot_regs:
    .skip 184

    .macro NOTE type, value:vararg
    .balign 4
    .long 4, 1f - 0f, \type
    .asciz "Xen"
0:  \value
1:  .balign 4
    .endm

    .section .note.xen, "a", @note
    NOTE 6,  .asciz "pyvmm guest"       # GUEST_OS
    NOTE 7,  .asciz "0"                 # GUEST_VERSION
    NOTE 8,  .asciz "generic"           # LOADER
    NOTE 5,  .asciz "xen-3.0"           # XEN_VERSION
    NOTE 3,  .quad 0                    # VIRT_BASE
    NOTE 1,  .quad _start               # ENTRY
    NOTE 2,  .quad hypercall_page       # HYPERCALL_PAGE
    NOTE 10, .asciz "!writable_page_tables|pae_pgdir_above_4gb" # FEATURES
    NOTE 9,  .asciz "yes"               # PAE_MODE
    .section .note.GNU-stack, "", @progbits
