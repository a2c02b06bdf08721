/* multicall, vm_assist, callback_op, nmi_op, physdev_op, and what only dom0 may call. */
#include "check.h"

void check_multicall(void)
{
    u64 bits = 0;
    struct multicall_entry calls[] = {
        {HYPERVISOR_xen_version, 99, {XENVER_version}},
        {HYPERVISOR_event_channel_op, 99, {EVTCHNOP_send, (u64)WILD}},
        {4096, 99, {0}},
        {HYPERVISOR_xen_version, 99, {XENVER_platform_parameters, (u64)&bits}},
        {HYPERVISOR_multicall, 99, {0, 0}},
        {1UL << 32 | HYPERVISOR_xen_version, 99, {XENVER_version}},
    };
    answer("none", hypercall_multicall(WILD, 0), 0);
    answer("six calls", hypercall_multicall(calls, COUNT(calls)), 0);
    answer("the first's result", (s64)calls[0].result, 4 << 16 | 17);
    answer("the second's: -EFAULT, and on it goes", (s64)calls[1].result, -EFAULT);
    answer("the third's: no such number", (s64)calls[2].result, -ENOSYS);
    answer("the fourth's", (s64)calls[3].result, 0);
    equal("it has written", bits, M2P_TABLE);
    answer("the fifth's: no multicall within", (s64)calls[4].result, -EINVAL);
    answer("the sixth's: all 64 bits of the number count", (s64)calls[5].result, -ENOSYS);
    answer("bad pointer", hypercall_multicall(WILD, 1), -EFAULT);
    void *page = page_alloc();
    u64 pte = va_to_mfn(page) << PAGE_SHIFT | PTE_P | PTE_U;
    struct multicall_entry two[] = {{HYPERVISOR_update_va_mapping, 99, {(u64)page, pte, UVMF_INVLPG}},
                                    {HYPERVISOR_update_va_mapping, 99, {(u64)page, pte | PTE_W, UVMF_INVLPG}}};
    answer("two mappings", hypercall_multicall(two, 2), 0);
    check(two[0].result == 0 && two[1].result == 0 && pte_read((u64)page) & PTE_W, "both were done, in order");
    page_free(page);
}

static void assists(void)
{
    answer("vm_assist: enable 4gb_segments", hypercall_vm_assist(VMASST_CMD_enable, VMASST_TYPE_4gb_segments), 0);
    answer("vm_assist: disable 4gb_segments", hypercall_vm_assist(VMASST_CMD_disable, VMASST_TYPE_4gb_segments), 0);
    answer("vm_assist: pae_extended_cr3", hypercall_vm_assist(VMASST_CMD_disable, VMASST_TYPE_pae_extended_cr3), 0);
    answer("vm_assist: runstate_update_flag", hypercall_vm_assist(VMASST_CMD_enable, VMASST_TYPE_runstate_update_flag), 0);
    hypercall_vm_assist(VMASST_CMD_disable, VMASST_TYPE_runstate_update_flag);
    answer("vm_assist: m2p_strict", hypercall_vm_assist(VMASST_CMD_disable, VMASST_TYPE_m2p_strict), 0);
    answer("vm_assist: no such type", hypercall_vm_assist(VMASST_CMD_enable, 31), -EINVAL);
    answer("vm_assist: type 64", hypercall_vm_assist(VMASST_CMD_enable, 64), -EINVAL);
    answer("vm_assist: no such command", hypercall_vm_assist(9, VMASST_TYPE_4gb_segments), -ENOSYS);
}

static void callbacks(void)
{
    struct callback_register r = {CALLBACKTYPE_event, 0, upcall_entry};
    struct callback_unregister u = {CALLBACKTYPE_event};
    answer("callback_op: register event", hypercall_callback_op(CALLBACKOP_register, &r), 0);
    answer("callback_op: unregister event", hypercall_callback_op(CALLBACKOP_unregister, &u), -EINVAL);
    r = (struct callback_register){CALLBACKTYPE_syscall, 1, syscall_entry};
    answer("callback_op: register syscall, masking events", hypercall_callback_op(CALLBACKOP_register, &r), 0);
    r.flags = 0;
    answer("callback_op: register syscall", hypercall_callback_op(CALLBACKOP_register, &r), 0);
    r = (struct callback_register){CALLBACKTYPE_event, 0, 0x800000000000UL};
    answer("callback_op: register a non-canonical address", hypercall_callback_op(CALLBACKOP_register, &r), -EINVAL);
    r = (struct callback_register){3, 0, upcall_entry};
    answer("callback_op: register no such type", hypercall_callback_op(CALLBACKOP_register, &r), -ENOSYS);
    answer("callback_op: bad pointer", hypercall_callback_op(CALLBACKOP_register, WILD), -EFAULT);
    answer("callback_op: unregister bad pointer", hypercall_callback_op(CALLBACKOP_unregister, WILD), -EFAULT);
    answer("callback_op: no such command", hypercall_callback_op(9, NULL), -ENOSYS);
    answer("set_callbacks", hypercall(4, upcall_entry, failsafe_entry, syscall_entry, 0, 0), 0);
}

SNIPPET(do_cli, "cli");
SNIPPET(do_sti, "sti");
SNIPPET(do_in80, "in $0x80, %al");
SNIPPET(do_cmos_index, "mov $0x3d, %al\nout %al, $0x70\nxor %eax, %eax\nin $0x70, %al");
SNIPPET(do_cmos_valid, "mov $13, %al\nout %al, $0x70\nin $0x71, %al\nand $0x80, %eax");
SNIPPET(do_cmos_mode, "mov $11, %al\nout %al, $0x70\nin $0x71, %al\nand $0x86, %eax");

static s64 vector(const void *code)
{
    struct probe p = {0};
    probe(&p, code);
    return p.vector;
}

static u64 value(const void *code)
{
    struct probe p = {0};
    probe(&p, code);
    return p.vector == -1 ? p.rax : ~0UL;
}

static void physdev(void)
{
    struct physdev_set_iopl iopl = {4};
    answer("physdev_op: set_iopl 4", hypercall_physdev_op(PHYSDEVOP_set_iopl, &iopl), -EINVAL);
    iopl.iopl = 1;
    answer("physdev_op: set_iopl 1", hypercall_physdev_op(PHYSDEVOP_set_iopl, &iopl), 0);
    answer("with it cli is ignored", vector(do_cli), -1);
    answer("and so is sti", vector(do_sti), -1);
    equal("they do not change the mask", shared_info->vcpu_info[0].evtchn_upcall_mask, 0);
    answer("in from port 0x80 is emulated, with or without the port", vector(do_in80), -1);
    equal("the index of the clock's memory is the domain's own", value(do_cmos_index), 0x3d);
    equal("the clock is dom0's: it is right", value(do_cmos_valid), 0x80);
    equal("and counts decimal, to 24", value(do_cmos_mode), is_dom0() ? 2 : 0x86);
    iopl.iopl = 0;
    answer("physdev_op: set_iopl 0", hypercall_physdev_op(PHYSDEVOP_set_iopl, &iopl), 0);
    answer("then cli faults again", vector(do_cli), 13);
    answer("physdev_op: set_iopl bad pointer", hypercall_physdev_op(PHYSDEVOP_set_iopl, WILD), -EFAULT);
    struct { u64 bitmap; u32 ports; } map = {0, 65537};
    answer("physdev_op: set_iobitmap of 65537 ports", hypercall_physdev_op(PHYSDEVOP_set_iobitmap, &map), -EINVAL);
    answer("physdev_op: no such command", hypercall_physdev_op(99, NULL), -ENOSYS);
}

static void cpus(void)
{
    struct { u32 cmd, version, cpu, present, out[32]; } op = {55, 0x03000001, 0, 77, {77, 77, 77, 77, 77, 77}};
    answer("platform_op: get_cpuinfo", hypercall(7, (u64)&op, 0, 0, 0, 0), by_role(0, -EPERM));
    equal("get_cpuinfo: the last one", op.present, is_dom0() ? 0 : 77);
    equal("get_cpuinfo: online", op.out[0], is_dom0() ? 1 : 77);
    equal("get_cpuinfo: APIC id", op.out[1], is_dom0() ? 0 : 77);
    op.cpu = 9;
    answer("platform_op: get_cpuinfo of none", hypercall(7, (u64)&op, 0, 0, 0, 0), by_role(0, -EPERM));
    equal("get_cpuinfo: not present", op.out[0], is_dom0() ? 2 : 77);
    op.cmd = 48;
    answer("platform_op: get_cpu_version of none", hypercall(7, (u64)&op, 0, 0, 0, 0), by_role(0, -EPERM));
    equal("get_cpu_version: no vendor", op.out[0], is_dom0() ? 0 : 77);
    op.cpu = 0;
    answer("platform_op: get_cpu_version", hypercall(7, (u64)&op, 0, 0, 0, 0), by_role(0, -EPERM));
    equal("get_cpu_version: vendor", op.out[0], is_dom0() ? 0x68747541 : 77); /* Auth */
    u32 a = 1, b, c = 0, d;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    u32 family = a >> 8 & 15, model = (a >> 4 & 15) | (a >> 12 & 0xf0);
    family += family == 15 ? a >> 20 & 0xff : 0;
    equal("get_cpu_version: family", op.out[3], is_dom0() ? family : 77);
    equal("get_cpu_version: model", op.out[4], is_dom0() ? model : 77);
    equal("get_cpu_version: stepping", op.out[5], is_dom0() ? a & 15 : 77);
}

static void control(void)
{
    u32 words[64] = {0};
    answer("domctl: bad pointer", hypercall_domctl(WILD), -EFAULT);
    answer("domctl: no such interface version", hypercall_domctl(words), -EACCES);
    answer("sysctl: bad pointer", hypercall_sysctl(WILD), -EFAULT);
    answer("sysctl: no such interface version", hypercall_sysctl(words), -EACCES);
    words[0] = 5; /* getdomaininfo */
    words[1] = 0x15;
    words[2] = 4242;
    answer("domctl: getdomaininfo of no domain", hypercall_domctl(words), -ESRCH);
    answer("platform_op: bad pointer", hypercall(7, (u64)WILD, 0, 0, 0, 0), -EFAULT);
    cpus();
    answer("hvm_op: no such command", hypercall_hvm_op(99, NULL), -ENOSYS);
    answer("xsm_op without a policy", hypercall(27, (u64)WILD, 0, 0, 0, 0), -ENOSYS);
    answer("tmem_op is no more", hypercall(38, 0, 0, 0, 0, 0), -ENOSYS);
    answer("argo_op: off", hypercall(39, 1, 0, 0, 0, 0), -ENOSYS);
    answer("xenpmu_op: off", hypercall(40, 99, 0, 0, 0, 0), -EOPNOTSUPP);
    answer("mca: for dom0", hypercall(48, (u64)WILD, 0, 0, 0, 0), by_role(-EFAULT, -EPERM));
    words[1] = 0;
    answer("mca: another interface version", hypercall(48, (u64)words, 0, 0, 0, 0), by_role(-EACCES, -EPERM));
    answer("nmi_op: no such command", hypercall_nmi_op(9, NULL), -ENOSYS);
    answer("nmi_op: register bad pointer", hypercall_nmi_op(0, WILD), -EFAULT);
}

void check_misc(void)
{
    assists();
    callbacks();
    physdev();
    control();
}
