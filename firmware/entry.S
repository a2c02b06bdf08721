# The machine's CPL-0 code. It occupies one supervisor page that is mapped in every address space.
#
# A hypervisor enters its guest through an iretq; and the hidden parts of segment registers are loaded only by
# the CPU itself. Both are done here, for real, so that what the CPU refuses is refused with its own exception.
#
# One entry point every 16 bytes. The host sets EAX to a selector (or RSP to an iretq frame), RIP to the entry point, and runs;
# the int3 tells it that the load was accepted.
#
# Assemble: as --64 -o entry.o entry.S && objcopy -O binary -j .text entry.o firmware.bin

        .text
        .balign 16, 0xcc
load_ds:
        movl    %eax, %ds
        int3
        .balign 16, 0xcc
load_es:
        movl    %eax, %es
        int3
        .balign 16, 0xcc
load_fs:
        movl    %eax, %fs
        int3
        .balign 16, 0xcc
load_gs:
        movl    %eax, %gs
        int3

# RSP points to RIP, CS, RFLAGS, RSP, SS. The frame's RIP is this page itself, which ring 3 cannot execute: the page fault
# that follows, with the user bit set, is the proof that ring 3 was reached.
        .balign 16, 0xcc
enter_ring3:
        iretq
