"""The console page that a guest shares with its console daemon.

Source: Xen 4.17 public/io/console.h. Indices run freely; a byte's place is the index modulo the size of its ring.
"""

from pyvmm.abi.layout import Struct, char, u32

xencons_interface = Struct(
    "xencons_interface",
    ("in_", char * 1024),
    ("out", char * 2048),
    ("in_cons", u32),
    ("in_prod", u32),
    ("out_cons", u32),
    ("out_prod", u32),
)
"""`in_` flows from the daemon to the guest, `out` from the guest to the daemon."""
