/* What front and back ends say to each other: Xen's io/xenbus.h, io/netif.h and io/blkif.h, and the published noxs pages. */
#pragma once
#include "types.h"

/* io/xenbus.h */
enum { XenbusStateUnknown, XenbusStateInitialising, XenbusStateInitWait, XenbusStateInitialised, XenbusStateConnected,
       XenbusStateClosing, XenbusStateClosed, XenbusStateReconfiguring, XenbusStateReconfigured };

/* io/netif.h */
struct netif_tx_request { u32 gref; u16 offset, flags, id, size; };
struct netif_tx_response { u16 id; short status; };
struct netif_rx_request { u16 id, pad; u32 gref; };
struct netif_rx_response { u16 id, offset, flags; short status; };
enum { NETTXF_csum_blank = 1, NETTXF_data_validated = 2, NETTXF_more_data = 4, NETTXF_extra_info = 8 };
enum { NETRXF_data_validated = 1, NETRXF_csum_blank = 2, NETRXF_more_data = 4, NETRXF_extra_info = 8, NETRXF_gso_prefix = 16 };
enum { NETIF_RSP_DROPPED = -2, NETIF_RSP_ERROR = -1, NETIF_RSP_OKAY = 0, NETIF_RSP_NULL = 1 };
enum { NETIF_SLOTS_MAX = 18 }; /* XEN_NETIF_NR_SLOTS_MIN: what every back end takes for one packet */

/* io/blkif.h, x86_64-abi */
enum { BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_OP_WRITE_BARRIER, BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_DISCARD = 5, BLKIF_OP_INDIRECT };
enum { BLKIF_RSP_OKAY = 0, BLKIF_RSP_ERROR = -1, BLKIF_RSP_EOPNOTSUPP = -2 };
enum { BLKIF_SEGMENTS = 11, BLKIF_INDIRECT_PAGES = 8, BLKIF_SEGMENTS_A_PAGE = 512 };
enum { VDISK_CDROM = 1, VDISK_REMOVABLE = 2, VDISK_READONLY = 4 };
struct blkif_segment { u32 gref; u8 first_sect, last_sect; };
struct blkif_request {
    u8 operation, nr_segments;
    u16 handle;
    u64 id, sector;
    union {
        struct blkif_segment seg[BLKIF_SEGMENTS];
        u64 nr_sectors; /* of a discard, whose flag is in nr_segments' place */
        struct { u16 handle; u32 gref[BLKIF_INDIRECT_PAGES]; } indirect; /* with indirect_op and a u16 count where nr_segments and handle are */
    } u;
};
struct blkif_response { u64 id; u8 operation; short status; };
_Static_assert(sizeof(struct blkif_request) == 112 && sizeof(struct blkif_response) == 16, "io/blkif.h");
_Static_assert(offsetof(struct blkif_request, u.indirect.gref) == 28, "io/blkif.h");

/* noxs: public/devctl.h and public/io/noxs.h of LightVM's Xen */
#define HYPERVISOR_devctl 41
enum { XEN_DEVCTL_VERSION = 1, XEN_DEVCTL_get = 1, XEN_DEVCTL_dev_add, XEN_DEVCTL_dev_rem, XEN_DEVCTL_dev_enum };
enum { noxs_dev_none, noxs_dev_sysctl, noxs_dev_vif, noxs_dev_vbd };
enum { NOXS_DEVICES = 32, VIRQ_NOXS = 23 }; /* the virq is pyvmm's own: the device page has changed */
struct noxs_entry { volatile u32 type, id; volatile u16 be_id; volatile u32 grant, evtchn; };
struct noxs_page { u32 version, dev_count; struct noxs_entry devs[NOXS_DEVICES]; };
struct xen_devctl { u32 version, cmd; u16 domain; u64 address; u8 rest[640]; };
_Static_assert(sizeof(struct noxs_page) == 648 && sizeof(struct xen_devctl) == 664, "public/devctl.h");
enum { noxs_watch_none, noxs_watch_requested, noxs_watch_updated };
struct noxs_header { volatile u32 devid, be_state, fe_state, fe_watch, be_watch; };
struct noxs_sysctl { struct noxs_header hdr; volatile u8 fe_feat, command; };
enum { SYSCTL_poweroff = 1, SYSCTL_reboot = 2, SYSCTL_suspend = 4, SYSCTL_crash = 8, SYSCTL_watchdog = 16 };
struct noxs_vif {
    struct noxs_header hdr;
    volatile u32 vifid;
    volatile u16 be_feat;
    volatile u32 max_queues, num_queues, tx_ring_ref, rx_ring_ref, event_channel_tx, event_channel_rx, request_rx_copy;
    volatile u16 fe_feat;
    volatile u32 ctrl_ring_ref, event_channel_ctrl;
    volatile u8 mac[6];
    volatile u32 ip; /* as on the wire */
    char bridge[16];
};
enum { VIF_BE_rx_notify = 1, VIF_BE_sg = 2, VIF_BE_no_csum_offload = 0x40, VIF_BE_rx_copy = 0x100, VIF_BE_split_event_channels = 0x1000 };
enum { VIF_FE_rx_notify = 1, VIF_FE_sg = 4, VIF_FE_no_csum_offload = 0x80 };
struct noxs_vbd {
    struct noxs_header hdr;
    volatile u16 max_indirect_segments;
    volatile u8 be_feat, pad0;
    volatile u32 major, minor, type, mode, info;
    volatile u64 sectors, sector_size, sector_size_physical;
    volatile u32 discard_enable, discard_granularity, discard_alignment, discard_secure;
    volatile u8 fe_feat;
    char protocol[64];
    volatile u32 max_rings, max_ring_page_order, num_rings, ring_page_order;
    struct { volatile u32 evtchn, ref; } ring; /* of the first ring, with one page; it begins where the structure's named part ends */
};
enum { VBD_BE_persistent = 1, VBD_BE_barrier = 2, VBD_BE_flush_cache = 4, VBD_BE_discard = 8 };
enum { noxs_vbd_rdonly = 1, noxs_vbd_rdwr = 2 };
_Static_assert(sizeof(struct noxs_header) == 20 && sizeof(struct noxs_vif) == 96, "public/io/noxs.h");
_Static_assert(offsetof(struct noxs_vif, mac) == 68 && offsetof(struct noxs_vif, ip) == 76, "public/io/noxs.h");
_Static_assert(offsetof(struct noxs_vbd, sectors) == 48 && offsetof(struct noxs_vbd, protocol) == 89, "public/io/noxs.h");
_Static_assert(offsetof(struct noxs_vbd, max_rings) == 156 && offsetof(struct noxs_vbd, ring) == 172, "public/io/noxs.h");
