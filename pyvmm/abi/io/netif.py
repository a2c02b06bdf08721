"""Network interfaces: the requests and responses of a vif's two rings, and what the negotiation calls its features.

Source: Xen 4.17 public/io/netif.h. A packet may take several slots: all but the last carry `*XF_more_data`. The first
tx request says how large the whole packet is, the others say their own size. Extra information follows the first slot
when it carries `*XF_extra_info`, and takes slots of the same ring.
"""

from pyvmm.abi.layout import Struct, Union, number_names, s16, u8, u16, u32

XEN_NETIF_NR_SLOTS_MIN = 18
"""Slots a packet may take that every back end must accept."""

XEN_NETIF_MAX_TX_SIZE = 0xFFFF

# netif_tx_request.flags.
NETTXF_csum_blank = 1 << 0
NETTXF_data_validated = 1 << 1
NETTXF_more_data = 1 << 2
NETTXF_extra_info = 1 << 3

# netif_rx_response.flags.
NETRXF_data_validated = 1 << 0
NETRXF_csum_blank = 1 << 1
NETRXF_more_data = 1 << 2
NETRXF_extra_info = 1 << 3
NETRXF_gso_prefix = 1 << 4

# netif_extra_info.type.
XEN_NETIF_EXTRA_TYPE_NONE = 0
XEN_NETIF_EXTRA_TYPE_GSO = 1
XEN_NETIF_EXTRA_TYPE_MCAST_ADD = 2
XEN_NETIF_EXTRA_TYPE_MCAST_DEL = 3
XEN_NETIF_EXTRA_TYPE_HASH = 4
XEN_NETIF_EXTRA_TYPE_MAX = 5

XEN_NETIF_EXTRA_TYPE_NAMES = number_names(globals(), "XEN_NETIF_EXTRA_TYPE_", keep=False)

# netif_extra_info.flags.
XEN_NETIF_EXTRA_FLAG_MORE = 1 << 0

# netif_extra_info.u.gso.type.
XEN_NETIF_GSO_TYPE_NONE = 0
XEN_NETIF_GSO_TYPE_TCPV4 = 1
XEN_NETIF_GSO_TYPE_TCPV6 = 2

# Status of a response. Of an rx response: the bytes put into the page, or one of the negative ones.
NETIF_RSP_DROPPED = -2
NETIF_RSP_ERROR = -1
NETIF_RSP_OKAY = 0
NETIF_RSP_NULL = 1

NETIF_RSP_NAMES = number_names(globals(), "NETIF_RSP_", keep=False)
NETIF_RSP_TEXT = {
    NETIF_RSP_DROPPED: "dropped",
    NETIF_RSP_ERROR: "error",
    NETIF_RSP_OKAY: "done",
    NETIF_RSP_NULL: "no response: the slot held extra information",
}

netif_tx_request = Struct(
    "netif_tx_request",
    ("gref", u32),
    ("offset", u16),
    ("flags", u16),
    ("id", u16),
    ("size", u16),
)

netif_tx_response = Struct("netif_tx_response", ("id", u16), ("status", s16))

netif_rx_request = Struct("netif_rx_request", ("id", u16), ("pad", u16), ("gref", u32))

netif_rx_response = Struct("netif_rx_response", ("id", u16), ("offset", u16), ("flags", u16), ("status", s16))

netif_extra_info = Struct(
    "netif_extra_info",
    ("type", u8),
    ("flags", u8),
    (
        "u",
        Union(
            "u",
            ("gso", Struct("gso", ("size", u16), ("type", u8), ("pad", u8), ("features", u16))),
            ("mcast", Struct("mcast", ("addr", u8 * 6))),
            ("hash", Struct("hash", ("type", u8), ("algorithm", u8), ("value", u8 * 4))),
            ("pad", u16 * 3),
        ),
    ),
)
"""Takes a whole slot of either ring: 12 bytes of the tx ring, 8 of the rx ring."""

# The control ring (`feature-ctrl-ring`): requests beside the data path.
XEN_NETIF_CTRL_HASH_TYPE_IPV4 = 1 << 0
XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP = 1 << 1
XEN_NETIF_CTRL_HASH_TYPE_IPV6 = 1 << 2
XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP = 1 << 3
XEN_NETIF_CTRL_HASH_ALGORITHM_NONE = 0
XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ = 1
XEN_NETIF_CTRL_TYPE_INVALID = 0
XEN_NETIF_CTRL_TYPE_GET_HASH_FLAGS = 1
XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS = 2
XEN_NETIF_CTRL_TYPE_SET_HASH_KEY = 3
XEN_NETIF_CTRL_TYPE_GET_HASH_MAPPING_SIZE = 4
XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE = 5
XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING = 6
XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM = 7
XEN_NETIF_CTRL_TYPE_GET_GREF_MAPPING_SIZE = 8
XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING = 9
XEN_NETIF_CTRL_TYPE_DEL_GREF_MAPPING = 10
XEN_NETIF_CTRL_STATUS_SUCCESS = 0
XEN_NETIF_CTRL_STATUS_NOT_SUPPORTED = 1
XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER = 2
XEN_NETIF_CTRL_STATUS_BUFFER_OVERFLOW = 3
XEN_NETIF_CTRLF_GREF_readonly = 1 << 0

xen_netif_ctrl_request = Struct("xen_netif_ctrl_request", ("id", u16), ("type", u16), ("data", u32 * 3))
xen_netif_ctrl_response = Struct("xen_netif_ctrl_response", ("id", u16), ("type", u16), ("status", u32), ("data", u32))
xen_netif_gref = Struct("xen_netif_gref", ("ref", u32), ("flags", u16), ("status", u16))
