"""noxs: devices without XenStore (hypercall 41). Not in Xen: the interface that the LightVM paper's authors published.

Source: public/devctl.h and public/io/noxs.h of LightVM's Xen 4.8 tree (Manco et al., SOSP 2017). Enumerations are 4
bytes.

A domain's device page lists its devices as `dev_page_entry`; each device has a control page, shared by grant, that
starts with a `ctrl_hdr` and goes on as `sysctl_ctrl_page`, `vif_ctrl_page` or `vbd_ctrl_page`. States are those of
`io.xenbus`."""

from pyvmm.abi.layout import Struct, Union, char, number_names, u8, u16, u32, u64

HYPERVISOR_devctl = 41
"""The hypercall's number; Xen 4.17 uses it for dm_op, which PV guests do not have."""

XEN_DEVCTL_VERSION = 1

# xen_devctl.cmd.
XEN_DEVCTL_get = 1
XEN_DEVCTL_dev_add = 2
XEN_DEVCTL_dev_rem = 3
XEN_DEVCTL_dev_enum = 4
DEVCTL_NAMES = {n: name for n, name in number_names(globals(), "XEN_DEVCTL_", keep=False).items() if name != "VERSION"}

NOXS_DEV_COUNT_MAX = 32

# dev_page_entry.type.
noxs_dev_none = 0
noxs_dev_sysctl = 1
noxs_dev_vif = 2
noxs_dev_vbd = 3
NOXS_DEV_NAMES = number_names(globals(), "noxs_dev_", keep=False)

VIRQ_NOXS = 23
"""Ours (Xen has VIRQ_ARCH_7 there, which x86 does not use): the device page has changed. Global; bound by guests that
want to hear of devices that come and go."""

# ctrl_hdr: watch states.
noxs_watch_none = 0
noxs_watch_requested = 1
noxs_watch_updated = 2

dev_key = Struct("dev_key", ("type", u32), ("be_id", u16), ("fe_id", u16), ("devid", u32))

dev_comm = Struct("dev_comm", ("grant", u32), ("evtchn", u32))

dev_page_entry = Struct("dev_page_entry", ("type", u32), ("id", u32), ("be_id", u16), ("comm", dev_comm))

dev_page = Struct("dev_page", ("version", u32), ("dev_count", u32), ("devs", dev_page_entry * NOXS_DEV_COUNT_MAX))
"""What a guest finds at the address that XEN_DEVCTL_get returned. `version` is always 0."""

xen_devctl = Struct(
    "xen_devctl",
    ("version", u32),
    ("cmd", u32),
    ("domain", u16),
    (
        "u",
        Union(
            "u",
            ("get", Struct("get", ("mfn", u64))),
            ("dev_add", Struct("dev_add", ("dev", dev_page_entry))),
            ("dev_rem", Struct("dev_rem", ("key", dev_key))),
            ("dev_enum", Struct("dev_enum", ("dev_count", u32), ("devs", dev_page_entry * NOXS_DEV_COUNT_MAX))),
        ),
    ),
)
"""The hypercall's only argument. `u.get.mfn` is, in spite of its name, a machine address in bytes."""

ctrl_hdr = Struct(
    "ctrl_hdr",
    ("devid", u32),
    ("be_state", u32),
    ("fe_state", u32),
    ("fe_watch_state", u32),
    ("be_watch_state", u32),
)

# sysctl_ctrl_page.fe_feat.
SYSCTL_FE_poweroff = 0x01
SYSCTL_FE_reboot = 0x02
SYSCTL_FE_suspend = 0x04
SYSCTL_FE_platform_multiprocessor_suspend = 0x08

# sysctl_ctrl_page.command.
SYSCTL_CMD_poweroff = 0x01
SYSCTL_CMD_reboot = 0x02
SYSCTL_CMD_suspend = 0x04
SYSCTL_CMD_crash = 0x08
SYSCTL_CMD_watchdog = 0x10

sysctl_ctrl_page = Struct("sysctl_ctrl_page", ("hdr", ctrl_hdr), ("fe_feat", u8), ("command", u8))
"""The device that stops, restarts and suspends a domain."""

# vif_ctrl_page.be_feat.
VIF_BE_rx_notify = 1 << 0
VIF_BE_sg = 1 << 1
VIF_BE_gso_tcpv4 = 1 << 2
VIF_BE_gso_tcpv4_prefix = 1 << 3
VIF_BE_gso_tcpv6 = 1 << 4
VIF_BE_gso_tcpv6_prefix = 1 << 5
VIF_BE_no_csum_offload = 1 << 6
VIF_BE_ipv6_csum_offload = 1 << 7
VIF_BE_rx_copy = 1 << 8
VIF_BE_rx_flip = 1 << 9
VIF_BE_multicast_control = 1 << 10
VIF_BE_dynamic_multicast_control = 1 << 11
VIF_BE_split_event_channels = 1 << 12
VIF_BE_ctrl_ring = 1 << 13
VIF_BE_netmap = 1 << 14

# vif_ctrl_page.fe_feat.
VIF_FE_rx_notify = 1 << 0
VIF_FE_persistent = 1 << 1
VIF_FE_sg = 1 << 2
VIF_FE_gso_tcpv4 = 1 << 3
VIF_FE_gso_tcpv4_prefix = 1 << 4
VIF_FE_gso_tcpv6 = 1 << 5
VIF_FE_gso_tcpv6_prefix = 1 << 6
VIF_FE_no_csum_offload = 1 << 7
VIF_FE_ipv6_csum_offload = 1 << 8
VIF_FE_ctrl_ring = 1 << 9

IFNAMSIZ = 16

vif_ctrl_page = Struct(
    "vif_ctrl_page",
    ("hdr", ctrl_hdr),
    ("vifid", u32),
    ("be_feat", u16),
    ("multi_queue_max_queues", u32),
    ("multi_queue_num_queues", u32),
    ("tx_ring_ref", u32),
    ("rx_ring_ref", u32),
    ("event_channel_tx", u32),
    ("event_channel_rx", u32),
    ("request_rx_copy", u32),
    ("fe_feat", u16),
    ("ctrl_ring_ref", u32),
    ("event_channel_ctrl", u32),
    ("mac", u8 * 6),
    ("ip", u32),
    ("bridge", char * IFNAMSIZ),
)

noxs_cfg_vif = Struct("noxs_cfg_vif", ("mac", u8 * 6), ("ip", u32), ("bridge", char * IFNAMSIZ))
"""What a toolstack gives the back end to make a vif."""

# vbd_ctrl_page: be_flags, fe_feat, type, mode.
VBD_BE_persistent = 0x01
VBD_BE_barrier = 0x02
VBD_BE_flush_cache = 0x04
VBD_BE_discard = 0x08
VBD_FE_persistent = 0x01
noxs_vbd_type_none = 0
noxs_vbd_type_phy = 1
noxs_vbd_type_file = 2
noxs_vbd_mode_none = 0
noxs_vbd_mode_rdonly = 1
noxs_vbd_mode_rdwr = 2

vbd_ctrl_page = Struct(
    "vbd_ctrl_page",
    ("hdr", ctrl_hdr),
    ("max_indirect_segments", u16),
    ("be_flags", u8),
    ("major", u32),
    ("minor", u32),
    ("type", u32),
    ("mode", u32),
    ("info", u32),
    ("sectors", u64),
    ("sector_size", u64),
    ("sector_size_physical", u64),
    ("discard_enable", u32),
    ("discard_granularity", u32),
    ("discard_alignment", u32),
    ("discard_secure", u32),
    ("fe_feat", u8),
    ("protocol", char * 64),
    ("max_rings", u32),
    ("max_ring_page_order", u32),
    ("num_rings", u32),
    ("ring_page_order", u32),
)
"""For each ring, from byte 172 on: the event channel (u32), then the grant references of the ring's pages (u32
each)."""

vbd_ctrl_page_rings_offset = 172

noxs_cfg_vbd = Struct("noxs_cfg_vbd", ("major", u32), ("minor", u32), ("type", u32), ("mode", u32))
