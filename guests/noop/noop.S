# noop: as little as can boot. It says "ready" on its console and waits for nothing, for ever, in two hypercalls and a page.
#
# No stack, no data, no hypercall page, no trap table, and nothing of guests/kernel. The console page lies in the memory that
# the builder mapped, at 4096 * its pfn, which Xen's table of machine frames tells. Upcalls are masked when a domain starts and stay
# so; to poll for no port and no time waits for any event, after which it is asked for again.
    .text
    .globl _start, main, forever
_start:                                 # rsi = start_info
main:
    mov 0x48(%rsi), %rax                # console.domU.mfn
    test %rax, %rax
    jz forever                          # noxs domains have none
    testb $1, 0x30(%rsi)                # SIF_PRIVILEGED: dom0 has other things there
    jnz forever
    mov $0xffff800000000000, %rdx       # M2P
    mov (%rdx,%rax,8), %rdi
    shl $12, %rdi                       # the console ring: in[1024] out[2048] in_cons in_prod out_cons out_prod
    mov $0x0a0d79646165720a, %rax       # "\nready\r\n", the first byte left out
    shr $8, %rax
    mov %rax, 1024(%rdi)
    movl $7, 3084(%rdi)                 # out_prod
    mov $32, %eax                       # event_channel_op
    mov $4, %edi                        # EVTCHNOP_send
    add $0x50, %rsi                     # &console.domU.evtchn
    syscall
forever:
    mov $29, %eax                       # sched_op
    mov $3, %edi                        # SCHEDOP_poll
    mov $nothing, %esi
    syscall
    jmp forever

    .balign 8
nothing:                                # struct sched_poll: ports, nr_ports, timeout
    .quad 0, 0, 0

    .macro NOTE type, value:vararg
    .balign 4
    .long 4, 1f - 0f, \type
    .asciz "Xen"
0:  \value
1:  .balign 4
    .endm

    .section .note.xen, "a", @note
    NOTE 6,  .asciz "pyvmm guest"       # GUEST_OS
    NOTE 8,  .asciz "generic"           # LOADER
    NOTE 5,  .asciz "xen-3.0"           # XEN_VERSION
    NOTE 3,  .quad 0                    # VIRT_BASE
    NOTE 1,  .quad _start               # ENTRY
    NOTE 9,  .asciz "yes"               # PAE_MODE
    .section .note.GNU-stack, "", @progbits
