/* The part of Xen's public interface that the guests use: numbers and structures, named as in Xen's headers. */
#pragma once
#include "types.h"

#define DOMID_SELF 0x7ff0U
#define DOMID_IO 0x7ff1U
#define DOMID_XEN 0x7ff2U
#define DOMID_INVALID 0x7ff4U

/* errno.h */
enum { EPERM = 1, ENOENT = 2, ESRCH = 3, ENXIO = 6, E2BIG = 7, EBADF = 9, EAGAIN = 11, ENOMEM = 12, EACCES = 13, EFAULT = 14,
      EBUSY = 16, EEXIST = 17,
       EXDEV = 18, ENODEV = 19, EINVAL = 22, ENOSPC = 28, ENOSYS = 38, ENODATA = 61, EPROTO = 71, EOVERFLOW = 75, EOPNOTSUPP = 95,
       ENOTCONN = 107 };

/* xen.h, arch-x86_64: selectors, page-table bits */
#define FLAT_RING3_CS32 0xe023
#define FLAT_RING3_CS64 0xe033
#define FLAT_RING3_SS64 0xe02b
#define PTE_P 1UL
#define PTE_W 2UL
#define PTE_U 4UL
#define PTE_A 0x20UL
#define PTE_D 0x40UL
#define PTE_PS 0x80UL
#define PTE_G 0x100UL
#define PTE_NX (1UL << 63)
#define PTE_LEAF (PTE_P | PTE_W | PTE_U | PTE_A | PTE_D)
#define PTE_DATA (PTE_LEAF | PTE_NX) /* no code: an emulator need not look for it at every store */
#define PTE_GUEST_KERNEL (1UL << 52)
#define PTE_MFN(pte) (((pte) & 0x000ffffffffff000UL) >> 12)

struct vcpu_time_info {
    u32 version, pad0;
    u64 tsc_timestamp, system_time;
    u32 tsc_to_system_mul;
    s8 tsc_shift;
    u8 flags, pad1[2];
};
struct vcpu_info {
    u8 evtchn_upcall_pending, evtchn_upcall_mask;
    u64 evtchn_pending_sel;
    u64 cr2, pad;
    struct vcpu_time_info time;
};
struct shared_info {
    struct vcpu_info vcpu_info[32];
    u64 evtchn_pending[64], evtchn_mask[64];
    u32 wc_version, wc_sec, wc_nsec, wc_sec_hi;
    u64 max_pfn, pfn_to_mfn_frame_list_list, nmi_reason, p2m_cr3, p2m_vaddr, p2m_generation;
};
struct start_info {
    char magic[32];
    u64 nr_pages, shared_info;
    u32 flags;
    u64 store_mfn;
    u32 store_evtchn;
    union {
        struct { u64 mfn; u32 evtchn; } domU;
        struct { u32 info_off, info_size; } dom0;
    } console;
    u64 pt_base, nr_pt_frames, mfn_list, mod_start, mod_len;
    char cmd_line[1024];
    u64 first_p2m_pfn, nr_p2m_frames;
};
#define SIF_PRIVILEGED 1
#define SIF_INITDOMAIN 2
#define SIF_MOD_START_PFN 8

struct trap_info { u8 vector, flags; u16 cs; u64 address; };
struct mmu_update { u64 ptr, val; };
enum { MMU_NORMAL_PT_UPDATE, MMU_MACHPHYS_UPDATE, MMU_PT_UPDATE_PRESERVE_AD };
enum { UVMF_NONE = 0, UVMF_TLB_FLUSH = 1, UVMF_INVLPG = 2, UVMF_LOCAL = 0, UVMF_ALL = 4 };
struct mmuext_op { u32 cmd; u64 arg1, arg2; };
enum { MMUEXT_PIN_L1_TABLE, MMUEXT_PIN_L2_TABLE, MMUEXT_PIN_L3_TABLE, MMUEXT_PIN_L4_TABLE, MMUEXT_UNPIN_TABLE, MMUEXT_NEW_BASEPTR,
      MMUEXT_TLB_FLUSH_LOCAL,
       MMUEXT_INVLPG_LOCAL, MMUEXT_TLB_FLUSH_MULTI, MMUEXT_INVLPG_MULTI, MMUEXT_TLB_FLUSH_ALL, MMUEXT_INVLPG_ALL,
           MMUEXT_FLUSH_CACHE, MMUEXT_SET_LDT,
       MMUEXT_NEW_USER_BASEPTR = 15, MMUEXT_CLEAR_PAGE, MMUEXT_COPY_PAGE, MMUEXT_FLUSH_CACHE_GLOBAL, MMUEXT_MARK_SUPER,
           MMUEXT_UNMARK_SUPER };
struct multicall_entry { u64 op, result, args[6]; };
enum { VMASST_CMD_enable, VMASST_CMD_disable };
enum { VMASST_TYPE_4gb_segments, VMASST_TYPE_4gb_segments_notify, VMASST_TYPE_writable_pagetables, VMASST_TYPE_pae_extended_cr3,
       VMASST_TYPE_architectural_iopl, VMASST_TYPE_runstate_update_flag, VMASST_TYPE_m2p_strict = 32 };
enum { CONSOLEIO_write, CONSOLEIO_read };
enum { SEGBASE_FS, SEGBASE_GS_USER, SEGBASE_GS_KERNEL, SEGBASE_GS_USER_SEL };

/* sched.h */
enum { SCHEDOP_yield, SCHEDOP_block, SCHEDOP_shutdown, SCHEDOP_poll, SCHEDOP_remote_shutdown, SCHEDOP_shutdown_code, SCHEDOP_watchdog };
enum { SHUTDOWN_poweroff, SHUTDOWN_reboot, SHUTDOWN_suspend, SHUTDOWN_crash };
struct sched_poll { u32 *ports; u32 nr_ports; u64 timeout; };
struct sched_remote_shutdown { u16 domid; u32 reason; };
struct sched_watchdog { u32 id, timeout; };

/* event_channel.h */
enum { EVTCHNOP_bind_interdomain, EVTCHNOP_bind_virq, EVTCHNOP_bind_pirq, EVTCHNOP_close, EVTCHNOP_send, EVTCHNOP_status,
      EVTCHNOP_alloc_unbound,
       EVTCHNOP_bind_ipi, EVTCHNOP_bind_vcpu, EVTCHNOP_unmask, EVTCHNOP_reset, EVTCHNOP_init_control, EVTCHNOP_expand_array,
           EVTCHNOP_set_priority };
struct evtchn_bind_interdomain { u16 remote_dom; u32 remote_port, local_port; };
struct evtchn_bind_virq { u32 virq, vcpu, port; };
struct evtchn_bind_pirq { u32 pirq, flags, port; };
struct evtchn_bind_ipi { u32 vcpu, port; };
struct evtchn_bind_vcpu { u32 port, vcpu; };
struct evtchn_alloc_unbound { u16 dom, remote_dom; u32 port; };
struct evtchn_port { u32 port; };
struct evtchn_reset { u16 dom; };
struct evtchn_init_control { u64 control_gfn; u32 offset, vcpu; u8 link_bits, pad[7]; };
struct evtchn_expand_array { u64 array_gfn; };
struct evtchn_status {
    u16 dom;
    u32 port, status, vcpu;
    union { struct { u16 dom; } unbound; struct { u16 dom; u32 port; } interdomain; u32 pirq, virq; } u;
};
enum { EVTCHNSTAT_closed, EVTCHNSTAT_unbound, EVTCHNSTAT_interdomain, EVTCHNSTAT_pirq, EVTCHNSTAT_virq, EVTCHNSTAT_ipi };
enum { VIRQ_TIMER, VIRQ_DEBUG, VIRQ_CONSOLE, VIRQ_DOM_EXC };

/* grant_table.h */
enum { GNTTABOP_map_grant_ref, GNTTABOP_unmap_grant_ref, GNTTABOP_setup_table, GNTTABOP_dump_table, GNTTABOP_transfer,
      GNTTABOP_copy, GNTTABOP_query_size,
       GNTTABOP_unmap_and_replace, GNTTABOP_set_version, GNTTABOP_get_status_frames, GNTTABOP_get_version, GNTTABOP_swap_grant_ref,
           GNTTABOP_cache_flush };
enum { GTF_invalid, GTF_permit_access, GTF_accept_transfer, GTF_readonly = 4, GTF_reading = 8, GTF_writing = 16 };
enum { GNTMAP_device_map = 1, GNTMAP_host_map = 2, GNTMAP_readonly = 4, GNTMAP_application_map = 8, GNTMAP_contains_pte = 16 };
enum { GNTST_okay = 0, GNTST_general_error = -1, GNTST_bad_domain = -2, GNTST_bad_gntref = -3, GNTST_bad_handle = -4,
      GNTST_bad_virt_addr = -5,
       GNTST_bad_dev_addr = -6, GNTST_no_device_space = -7, GNTST_permission_denied = -8, GNTST_bad_page = -9, GNTST_bad_copy_arg = -10,
       GNTST_address_too_big = -11, GNTST_eagain = -12, GNTST_no_space = -13 };
struct grant_entry { u16 flags, domid; u32 frame; };
struct gnttab_map { u64 host_addr; u32 flags, ref; u16 dom; short status; u32 handle; u64 dev_bus_addr; };
struct gnttab_unmap { u64 host_addr, dev_bus_addr; u32 handle; short status; };
struct gnttab_setup_table { u16 dom; u32 nr_frames; short status; u64 *frames; };
struct gnttab_copy_end { union { u32 ref; u64 gmfn; } u; u16 domid, offset; };
struct gnttab_copy { struct gnttab_copy_end source, dest; u16 len, flags; short status; };
enum { GNTCOPY_source_gref = 1, GNTCOPY_dest_gref = 2 };
struct gnttab_query_size { u16 dom; u32 nr_frames, max_nr_frames; short status; };
struct gnttab_version { u32 version; };
struct gnttab_get_version { u16 dom, pad; u32 version; };

/* memory.h */
enum { XENMEM_increase_reservation, XENMEM_decrease_reservation, XENMEM_maximum_ram_page, XENMEM_current_reservation,
      XENMEM_maximum_reservation,
       XENMEM_machphys_mfn_list, XENMEM_populate_physmap, XENMEM_add_to_physmap, XENMEM_memory_map = 9, XENMEM_machine_memory_map,
           XENMEM_exchange,
       XENMEM_machphys_mapping, XENMEM_set_memory_map, XENMEM_set_pod_target = 16, XENMEM_get_sharing_freed_pages = 18,
       XENMEM_add_to_physmap_batch = 23, XENMEM_claim_pages = 24, XENMEM_machphys_compat_mfn_list = 25, XENMEM_acquire_resource = 28 };
struct memory_reservation { u64 *extent_start; u64 nr_extents; u32 extent_order, mem_flags; u16 domid; };
struct memory_exchange { struct memory_reservation in, out; u64 nr_exchanged; };
struct machphys_mapping { u64 v_start, v_end, max_mfn; };
struct machphys_mfn_list { u32 max_extents; u64 *extent_start; u32 nr_extents; };
struct memory_map { u32 nr_entries; void *buffer; };
struct add_to_physmap { u16 domid, size; u32 space; u64 idx, gpfn; };

/* vcpu.h */
enum { VCPUOP_initialise, VCPUOP_up, VCPUOP_down, VCPUOP_is_up, VCPUOP_get_runstate_info, VCPUOP_register_runstate_memory_area,
      VCPUOP_set_periodic_timer,
       VCPUOP_stop_periodic_timer, VCPUOP_set_singleshot_timer, VCPUOP_stop_singleshot_timer, VCPUOP_register_vcpu_info, VCPUOP_send_nmi,
       VCPUOP_get_physid, VCPUOP_register_vcpu_time_memory_area };
struct vcpu_runstate_info { u32 state; u64 entry_time, time[4]; };
struct vcpu_register_vcpu_info { u64 mfn; u32 offset, rsvd; };
struct vcpu_set_singleshot_timer { u64 timeout_abs_ns; u32 flags; };
struct vcpu_set_periodic_timer { u64 period_ns; };
struct cpu_user_regs {
    u64 r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi;
    u32 error_code, entry_vector;
    u64 rip;
    u16 cs, pad0[1];
    u8 saved_upcall_mask, pad1[3];
    u64 rflags, rsp, ss, es, ds, fs, gs;
};
struct vcpu_guest_context {
    u8 fpu[512];
    u64 flags;
    struct cpu_user_regs user_regs;
    struct trap_info trap_ctxt[256];
    u64 ldt_base, ldt_ents, gdt_frames[16], gdt_ents, kernel_ss, kernel_sp, ctrlreg[8], debugreg[8];
    u64 event_callback_eip, failsafe_callback_eip, syscall_callback_eip, vm_assist, fs_base, gs_base_kernel, gs_base_user;
};
#define VGCF_in_kernel 4
#define VGCF_online 32

/* version.h, callback.h, physdev.h */
enum { XENVER_version, XENVER_extraversion, XENVER_compile_info, XENVER_capabilities, XENVER_changeset, XENVER_platform_parameters,
      XENVER_get_features,
       XENVER_pagesize, XENVER_guest_handle, XENVER_commandline, XENVER_build_id };
struct feature_info { u32 submap_idx, submap; };
enum { CALLBACKTYPE_event, CALLBACKTYPE_failsafe, CALLBACKTYPE_syscall, CALLBACKTYPE_sysenter = 5, CALLBACKTYPE_nmi = 4,
      CALLBACKTYPE_syscall32 = 7 };
enum { CALLBACKOP_register, CALLBACKOP_unregister };
struct callback_register { u16 type, flags; u64 address; };
struct callback_unregister { u16 type; };
enum { PHYSDEVOP_set_iopl = 6, PHYSDEVOP_set_iobitmap = 7 };
struct physdev_set_iopl { u32 iopl; };

/* io/console.h, io/xs_wire.h */
struct console_ring { char in[1024], out[2048]; u32 in_cons, in_prod, out_cons, out_prod; };
struct xenstore_ring { char req[1024], rsp[1024]; u32 req_cons, req_prod, rsp_cons, rsp_prod, server_features, connection, error; };
enum { XENSTORE_ERROR_NONE, XENSTORE_ERROR_COMM, XENSTORE_ERROR_RINGIDX, XENSTORE_ERROR_PROTO };
struct xsd_sockmsg { u32 type, req_id, tx_id, len; };
enum { XS_CONTROL, XS_DIRECTORY, XS_READ, XS_GET_PERMS, XS_WATCH, XS_UNWATCH, XS_TRANSACTION_START, XS_TRANSACTION_END,
      XS_INTRODUCE, XS_RELEASE,
       XS_GET_DOMAIN_PATH, XS_WRITE, XS_MKDIR, XS_RM, XS_SET_PERMS, XS_WATCH_EVENT, XS_ERROR };
