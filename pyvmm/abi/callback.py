"""Registration of a guest's entry points (callback_op).

Source: Xen 4.17 public/callback.h.
The argument of `CALLBACKOP_x` is the structure `callback_x`.
"""

from pyvmm.abi.layout import Struct, number_names, u16, u64

# Which entry point.
CALLBACKTYPE_event = 0
CALLBACKTYPE_failsafe = 1
CALLBACKTYPE_syscall = 2
CALLBACKTYPE_sysenter_deprecated = 3
CALLBACKTYPE_nmi = 4
CALLBACKTYPE_sysenter = 5
CALLBACKTYPE_syscall32 = 7

# callback_register.flags.
CALLBACKF_mask_events = 1 << 0

# Sub-operations.
CALLBACKOP_register = 0
CALLBACKOP_unregister = 1

callback_register = Struct(
    "callback_register",
    ("type", u16),
    ("flags", u16),
    ("address", u64),
)

callback_unregister = Struct("callback_unregister", ("type", u16), ("_unused", u16))

CALLBACKTYPE_NAMES = number_names(globals(), "CALLBACKTYPE_", keep=False)
