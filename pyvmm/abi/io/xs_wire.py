"""XenStore's wire format: message header, types, limits, and the page shared with the daemon.

Source: Xen 4.17 public/io/xs_wire.h.
"""

from pyvmm.abi.layout import Struct, char, number_names, u32

# Sizes in bytes; paths without the terminating zero.
XENSTORE_RING_SIZE = 1024
XENSTORE_PAYLOAD_MAX = 4096
XENSTORE_ABS_PATH_MAX = 3072
XENSTORE_REL_PATH_MAX = 2048

# xenstore_domain_interface.server_features.
XENSTORE_SERVER_FEATURE_RECONNECTION = 1
XENSTORE_SERVER_FEATURE_ERROR = 2

# xenstore_domain_interface.connection.
XENSTORE_CONNECTED = 0
XENSTORE_RECONNECT = 1

# xenstore_domain_interface.error.
XENSTORE_ERROR_NONE = 0
XENSTORE_ERROR_COMM = 1
XENSTORE_ERROR_RINGIDX = 2
XENSTORE_ERROR_PROTO = 3

# Message types.
XS_CONTROL = 0
XS_DIRECTORY = 1
XS_READ = 2
XS_GET_PERMS = 3
XS_WATCH = 4
XS_UNWATCH = 5
XS_TRANSACTION_START = 6
XS_TRANSACTION_END = 7
XS_INTRODUCE = 8
XS_RELEASE = 9
XS_GET_DOMAIN_PATH = 10
XS_WRITE = 11
XS_MKDIR = 12
XS_RM = 13
XS_SET_PERMS = 14
XS_WATCH_EVENT = 15
XS_ERROR = 16
XS_IS_DOMAIN_INTRODUCED = 17
XS_RESUME = 18
XS_SET_TARGET = 19
XS_RESET_WATCHES = 21
XS_DIRECTORY_PART = 22
XS_TYPE_COUNT = 23
XS_INVALID = 0xFFFF

# Index of the strings in a watch event.
XS_WATCH_PATH = 0
XS_WATCH_TOKEN = 1

xsd_sockmsg = Struct(
    "xsd_sockmsg",
    ("type", u32),
    ("req_id", u32),
    ("tx_id", u32),
    ("len", u32),
)
"""Header of every message; `len` bytes of payload follow."""

xenstore_domain_interface = Struct(
    "xenstore_domain_interface",
    ("req", char * 1024),
    ("rsp", char * 1024),
    ("req_cons", u32),
    ("req_prod", u32),
    ("rsp_cons", u32),
    ("rsp_prod", u32),
    ("server_features", u32),
    ("connection", u32),
    ("error", u32),
)
"""The page: requests flow from the guest, responses and watch events to it."""

XS_NAMES = {
    n: name for n, name in number_names(globals(), "XS_", keep=False).items() if name not in {"TYPE_COUNT", "INVALID"}
}

XSD_ERRORS = (
    "EINVAL",
    "EACCES",
    "EEXIST",
    "EISDIR",
    "ENOENT",
    "ENOMEM",
    "ENOSPC",
    "EIO",
    "ENOTEMPTY",
    "ENOSYS",
    "EROFS",
    "EBUSY",
    "EAGAIN",
    "EISCONN",
    "E2BIG",
    "EPERM",
)
"""Errors that an XS_ERROR message may carry: by name, with a terminating zero."""
