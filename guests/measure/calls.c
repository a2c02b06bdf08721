/* The calls that need nothing prepared. */
#include "measure.h"

static u8 buffer[4096] aligned(4096);
#define CALL(identifier, expression) static s64 identifier(u64 n) { (void)n; return expression; }

CALL(version, hypercall_xen_version(XENVER_version, NULL))
static s64 version_op(u64 n) { return hypercall_xen_version(n, buffer); }
static s64 features(u64 n) { struct feature_info f = {(u32)n, 0}; return hypercall_xen_version(XENVER_get_features, &f); }
CALL(unknown, hypercall(41, 0, 0, 0, 0, 0))
CALL(ram_page, hypercall_memory_op(XENMEM_maximum_ram_page, NULL))
static s64 self_memory(u64 n) { u16 self = DOMID_SELF; return hypercall_memory_op(n, &self) < 0 ? -1 : 0; }
CALL(machphys, hypercall_memory_op(XENMEM_machphys_mapping, buffer))
CALL(yield, hypercall_sched_op(SCHEDOP_yield, NULL))
static s64 poll_now(u64 n)
{
    struct sched_poll p = {NULL, 0, 1}; /* a time that has passed */
    (void)n;
    return hypercall_sched_op(SCHEDOP_poll, &p);
}
static s64 vcpu(u64 n) { s64 rc = hypercall_vcpu_op(n, 0, buffer); return rc < 0 ? rc : 0; }
static void clear(u64 n) { (void)n; memset(buffer, 0, sizeof buffer); }
static void period(u64 n) { (void)n; clear(0); *(u64 *)buffer = 1000000000; }
static void single(u64 n) { (void)n; clear(0); *(u64 *)buffer = now() + 1000000000; }
static void stop_period(u64 n) { (void)n; hypercall_vcpu_op(VCPUOP_stop_periodic_timer, 0, NULL); }
static void stop_single(u64 n) { (void)n; hypercall_vcpu_op(VCPUOP_stop_singleshot_timer, 0, NULL); }
static void stop_timer(u64 n) { (void)n; hypercall_set_timer_op(0); }
static u64 later;
static void soon(u64 n) { (void)n; later = now() + 1000000000; }
CALL(timer, hypercall_set_timer_op(later))
CALL(no_timer, hypercall_set_timer_op(0))
static struct trap_info traps[34];
static void trap_list(u64 n)
{
    extern const u64 trap_entries[];
    memset(traps, 0, sizeof traps);
    for (u64 i = 0; i < n; i++)
        traps[i] = (struct trap_info){200, 0, FLAT_RING3_CS64, trap_entries[1]};
}
CALL(trap_table, hypercall_set_trap_table(traps))
CALL(stack_switch, hypercall_stack_switch(FLAT_RING3_SS64, (u64)boot_stack_end))
CALL(taskswitch, hypercall_fpu_taskswitch(0))
CALL(debugreg_set, hypercall_set_debugreg(0, 0))
CALL(debugreg_get, hypercall_get_debugreg(0))
CALL(segment_base, hypercall_set_segment_base(SEGBASE_FS, 0))
CALL(assist, hypercall_vm_assist(VMASST_CMD_disable, VMASST_TYPE_4gb_segments))
static s64 callback(u64 n)
{
    struct callback_register c = {CALLBACKTYPE_syscall, 0, syscall_entry};
    (void)n;
    return hypercall_callback_op(CALLBACKOP_register, &c);
}
CALL(iopl, hypercall_physdev_op(PHYSDEVOP_set_iopl, &(struct physdev_set_iopl){0}))
static void line(u64 n)
{
    memset(buffer, '.', n);
    buffer[n - 1] = '\n';
}
static s64 console_write_n(u64 n) { return hypercall_console_io(CONSOLEIO_write, n, buffer); }
CALL(console_read_none, hypercall_console_io(CONSOLEIO_read, 64, buffer))
static struct multicall_entry list[64];
static void calls(u64 n)
{
    for (u64 i = 0; i < n; i++)
        list[i] = (struct multicall_entry){HYPERVISOR_xen_version, 0, {XENVER_version, 0}};
}
static s64 multicall(u64 n) { return hypercall_multicall(list, (u32)n); }
static u64 gdt_frames[1];
static void *gdt;
static void no_gdt(u64 n) { (void)n; hypercall_set_gdt(gdt_frames, 0); }
CALL(set_gdt, hypercall_set_gdt(gdt_frames, 8))
static s64 descriptor(u64 n) { return hypercall_update_descriptor(va_to_machine((u64 *)gdt + n), 0); }

void measure_calls(void)
{
    MEASURE("xen_version.version", 0, NULL, version, NULL);
    MEASURE("xen_version.extraversion", 1, NULL, version_op, NULL);
    MEASURE("xen_version.compile_info", 2, NULL, version_op, NULL);
    MEASURE("xen_version.capabilities", 3, NULL, version_op, NULL);
    MEASURE("xen_version.changeset", 4, NULL, version_op, NULL);
    MEASURE("xen_version.platform_parameters", 5, NULL, version_op, NULL);
    MEASURE("xen_version.get_features", 0, NULL, features, NULL);
    MEASURE("xen_version.pagesize", 7, NULL, version_op, NULL);
    MEASURE("xen_version.guest_handle", 8, NULL, version_op, NULL);
    MEASURE("xen_version.commandline", 9, NULL, version_op, NULL);
    MEASURE("unknown", 0, NULL, unknown, NULL);
    MEASURE("memory_op.maximum_ram_page", 0, NULL, ram_page, NULL);
    MEASURE("memory_op.current_reservation", XENMEM_current_reservation, NULL, self_memory, NULL);
    MEASURE("memory_op.maximum_reservation", XENMEM_maximum_reservation, NULL, self_memory, NULL);
    MEASURE("memory_op.machphys_mapping", 0, NULL, machphys, NULL);
    MEASURE("sched_op.yield", 0, NULL, yield, NULL);
    MEASURE("sched_op.poll", 0, NULL, poll_now, NULL);
    MEASURE("vcpu_op.is_up", VCPUOP_is_up, NULL, vcpu, NULL);
    MEASURE("vcpu_op.get_runstate_info", VCPUOP_get_runstate_info, clear, vcpu, NULL);
    MEASURE("vcpu_op.set_periodic_timer", VCPUOP_set_periodic_timer, period, vcpu, stop_period);
    MEASURE("vcpu_op.stop_periodic_timer", VCPUOP_stop_periodic_timer, NULL, vcpu, NULL);
    MEASURE("vcpu_op.set_singleshot_timer", VCPUOP_set_singleshot_timer, single, vcpu, stop_single);
    MEASURE("vcpu_op.stop_singleshot_timer", VCPUOP_stop_singleshot_timer, NULL, vcpu, NULL);
    MEASURE("set_timer_op", 0, soon, timer, stop_timer);
    MEASURE("set_timer_op.stop", 0, NULL, no_timer, NULL);
    MEASURE("set_trap_table", 1, trap_list, trap_table, NULL);
    MEASURE("set_trap_table", 16, trap_list, trap_table, NULL);
    MEASURE("set_trap_table", 32, trap_list, trap_table, NULL);
    MEASURE("stack_switch", 0, NULL, stack_switch, NULL);
    MEASURE("fpu_taskswitch", 0, NULL, taskswitch, NULL);
    MEASURE("set_debugreg", 0, NULL, debugreg_set, NULL);
    MEASURE("get_debugreg", 0, NULL, debugreg_get, NULL);
    MEASURE("set_segment_base", 0, NULL, segment_base, NULL);
    MEASURE("vm_assist", 0, NULL, assist, NULL);
    MEASURE("callback_op.register", 0, NULL, callback, NULL);
    MEASURE("physdev_op", 0, NULL, iopl, NULL);
    MEASURE("console_io.write", 1, line, console_write_n, NULL);
    MEASURE("console_io.write", 16, line, console_write_n, NULL);
    MEASURE("console_io.write", 64, line, console_write_n, NULL);
    MEASURE("console_io.read", 0, NULL, console_read_none, NULL);
    MEASURE("multicall", 1, calls, multicall, NULL);
    MEASURE("multicall", 16, calls, multicall, NULL);
    MEASURE("multicall", 64, calls, multicall, NULL);
    gdt = page_alloc();
    protect(gdt, PTE_P | PTE_U);
    gdt_frames[0] = va_to_mfn(gdt);
    MEASURE("set_gdt", 0, NULL, set_gdt, no_gdt);
    set_gdt(0);
    MEASURE("update_descriptor", 1, NULL, descriptor, NULL);
    no_gdt(0);
    protect(gdt, PTE_P | PTE_W | PTE_U);
    page_free(gdt);
}
