/* vcpu_op: the states of vCPUs, runstate, vcpu_info elsewhere; and a second vCPU, where there is one. */
#include "check.h"

static struct vcpu_runstate_info area aligned(64);
static struct vcpu_info moved[4] aligned(64);

static s64 op(u32 cmd, u32 vcpu, void *arg) { return hypercall_vcpu_op(cmd, vcpu, arg); }

static volatile u32 nmis;
static void nmi(struct frame *f) { (void)f, nmis++; }

static void runstate(void)
{
    struct vcpu_runstate_info r = {.state = 99};
    answer("get_runstate_info", op(VCPUOP_get_runstate_info, 0, &r), 0);
    check(r.state == 0 && r.time[0] > 0 && r.entry_time > 0, "we are running and have run");
    answer("get_runstate_info: bad pointer", op(VCPUOP_get_runstate_info, 0, WILD), -EFAULT);
    u64 address = (u64)&area;
    answer("register_runstate_memory_area", op(VCPUOP_register_runstate_memory_area, 0, &address), 0);
    check(area.state == 0 && area.entry_time >= r.entry_time, "it is filled in at once");
    answer("register_runstate_memory_area: bad pointer", op(VCPUOP_register_runstate_memory_area, 0, WILD), -EFAULT);
    for (u32 i = 0; i < 50 && area.time[2] <= r.time[2]; i++)
        sleep_until(now() + 2000000); /* more than once: on a busy host the timer may ring before the block */
    check(area.time[2] > r.time[2], "blocked time grows with a sleep");
    address = 0;
    answer("register_runstate_memory_area: none", op(VCPUOP_register_runstate_memory_area, 0, &address), 0);
}

void check_vcpu(void)
{
    answer("is_up: vcpu 0", op(VCPUOP_is_up, 0, NULL), 1);
    answer("is_up: no such vcpu", op(VCPUOP_is_up, 99, NULL), -ENOENT);
    answer("is_up: vcpu number beyond 32 bits", op(VCPUOP_is_up, 0xffffffff, NULL), -ENOENT);
    answer("up: the one that runs", op(VCPUOP_up, 0, NULL), 0);
    answer("initialise: the one that runs", op(VCPUOP_initialise, 0, WILD), -EFAULT);
    answer("initialise: no such vcpu", op(VCPUOP_initialise, 99, WILD), -ENOENT);
    answer("down: no such vcpu", op(VCPUOP_down, 99, NULL), -ENOENT);
    answer("no such command", op(99, 0, NULL), -ENOSYS);
    trap_handlers[2] = nmi;
    nmis = 0;
    answer("send_nmi: ourselves", op(VCPUOP_send_nmi, 0, NULL), 0);
    equal("it comes as trap 2", nmis, 1);
    trap_handlers[2] = NULL;
    answer("send_nmi: no such vcpu", op(VCPUOP_send_nmi, 99, NULL), -ENOENT);
    runstate();
    struct vcpu_register_vcpu_info bad = {0xffffffff, 0, 0};
    answer("register_vcpu_info: a frame beyond all", op(VCPUOP_register_vcpu_info, 0, &bad), -EINVAL);
    bad = (struct vcpu_register_vcpu_info){va_to_mfn(moved), 4096 - 32, 0};
    answer("register_vcpu_info: across the page's end", op(VCPUOP_register_vcpu_info, 0, &bad), -ENXIO);
    bad = (struct vcpu_register_vcpu_info){va_to_mfn(moved), 3, 0};
    answer("register_vcpu_info: unaligned", op(VCPUOP_register_vcpu_info, 0, &bad), -ENXIO);
    answer("register_vcpu_info: bad pointer", op(VCPUOP_register_vcpu_info, 0, WILD), -EFAULT);
    answer("register_vcpu_info: no such vcpu", op(VCPUOP_register_vcpu_info, 99, &bad), -ENOENT);
}

static struct vcpu_guest_context context;
static u8 stack[8192] aligned(4096);
static volatile u64 second_state, second_events, second_rdi, second_rsp;
static u32 ipi_port;

/* vCPU 1: no upcalls (its mask stays set); it answers through memory and goes down. */
static void __attribute__((noreturn)) second(u64 rdi)
{
    second_rdi = rdi;
    second_rsp = (u64)__builtin_frame_address(0);
    second_state = 1;
    struct sched_poll p = {&ipi_port, 1, 0};
    while (!test_bit(shared_info->evtchn_pending, ipi_port))
        hypercall_sched_op(SCHEDOP_poll, &p);
    clear_bit(shared_info->evtchn_pending, ipi_port);
    second_events++;
    second_state = 2;
    for (;;) {
        op(VCPUOP_down, 1, NULL);
        second_state++;
    }
}

static bool until(volatile u64 *word, u64 value)
{
    u64 end = now() + 5000000000UL;
    while (*word != value && now() < end)
        hypercall_sched_op(SCHEDOP_yield, NULL);
    return *word == value;
}

/* Needs a second vCPU (`vcpus=2`, or `--smp 2` for dom0); the lines are the same without, since most refusals are. */
void check_smp(void)
{
    s64 up = op(VCPUOP_is_up, 1, NULL);
    if (up == -ENOENT) {
        answer("up: vcpu 1 is not there", op(VCPUOP_up, 1, NULL), -ENOENT);
        return;
    }
    answer("is_up: vcpu 1 is down", up, 0);
    answer("up: before initialise", op(VCPUOP_up, 1, NULL), -EINVAL);
    struct vcpu_register_vcpu_info info = {va_to_mfn(moved), (u32)((u64)moved & 0xfff), 0};
    answer("register_vcpu_info: vcpu 1", op(VCPUOP_register_vcpu_info, 1, &info), 0);
    answer("register_vcpu_info: a second time", op(VCPUOP_register_vcpu_info, 1, &info), -EINVAL);
    check(moved[0].evtchn_pending_sel == ~0UL && moved[0].evtchn_upcall_pending == 1, "the new place has everything pending");
    struct evtchn_bind_ipi ipi = {1, 0};
    answer("bind_ipi: on vcpu 1", hypercall_event_channel_op(EVTCHNOP_bind_ipi, &ipi), 0);
    ipi_port = ipi.port;
    context.flags = VGCF_in_kernel;
    context.user_regs.rip = (u64)second;
    context.user_regs.rdi = 0x1234;
    context.user_regs.rsp = (u64)stack + sizeof stack - 8;
    context.user_regs.cs = FLAT_RING3_CS64;
    context.user_regs.ss = FLAT_RING3_SS64;
    context.user_regs.rflags = 0x202;
    context.kernel_ss = FLAT_RING3_SS64;
    context.kernel_sp = (u64)stack + sizeof stack;
    context.ctrlreg[3] = 0xffffffffUL << PAGE_SHIFT;
    answer("initialise: with a base pointer beyond all", op(VCPUOP_initialise, 1, &context), -EINVAL);
    context.ctrlreg[3] = va_to_mfn((void *)start_info->pt_base) << PAGE_SHIFT;
    answer("initialise: bad pointer", op(VCPUOP_initialise, 1, WILD), -EFAULT);
    answer("initialise", op(VCPUOP_initialise, 1, &context), 0);
    answer("initialise: a second time", op(VCPUOP_initialise, 1, &context), -EEXIST);
    answer("is_up: not yet", op(VCPUOP_is_up, 1, NULL), 0);
    second_state = second_events = 0;
    answer("up", op(VCPUOP_up, 1, NULL), 0);
    check(until(&second_state, 1), "it runs");
    equal("with the registers given", second_rdi, 0x1234);
    answer("is_up: now", op(VCPUOP_is_up, 1, NULL), 1);
    event_send(ipi_port);
    check(until(&second_state, 2), "an event sent to it arrives");
    u64 end = now() + 5000000000UL;
    while (op(VCPUOP_is_up, 1, NULL) && now() < end)
        hypercall_sched_op(SCHEDOP_yield, NULL);
    answer("down: it went down by itself", op(VCPUOP_is_up, 1, NULL), 0);
    answer("up again", op(VCPUOP_up, 1, NULL), 0);
    check(until(&second_state, 3), "it goes on after its down");
    end = now() + 5000000000UL;
    while (op(VCPUOP_is_up, 1, NULL) && now() < end)
        hypercall_sched_op(SCHEDOP_yield, NULL);
    struct vcpu_runstate_info r = {0};
    answer("get_runstate_info: vcpu 1", op(VCPUOP_get_runstate_info, 1, &r), 0);
    for (end = now() + 5000000000UL; r.state != 3 && now() < end;)
        op(VCPUOP_get_runstate_info, 1, &r); /* on another processor it may still be on its way out */
    equal("it is offline", r.state, 3);
    event_close(ipi_port);
}
