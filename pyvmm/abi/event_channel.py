"""Event channels: ports on which domains, virtual interrupts and vCPUs signal each other.

Source: Xen 4.17 public/event_channel.h.
The argument of `EVTCHNOP_x` is the structure `evtchn_x`.
"""

from pyvmm.abi.layout import Struct, Union, number_names, u8, u16, u32, u64

# Sub-operations.
EVTCHNOP_bind_interdomain = 0
EVTCHNOP_bind_virq = 1
EVTCHNOP_bind_pirq = 2
EVTCHNOP_close = 3
EVTCHNOP_send = 4
EVTCHNOP_status = 5
EVTCHNOP_alloc_unbound = 6
EVTCHNOP_bind_ipi = 7
EVTCHNOP_bind_vcpu = 8
EVTCHNOP_unmask = 9
EVTCHNOP_reset = 10
EVTCHNOP_init_control = 11
EVTCHNOP_expand_array = 12
EVTCHNOP_set_priority = 13

BIND_PIRQ__WILL_SHARE = 1

# evtchn_status.status.
EVTCHNSTAT_closed = 0
EVTCHNSTAT_unbound = 1
EVTCHNSTAT_interdomain = 2
EVTCHNSTAT_pirq = 3
EVTCHNSTAT_virq = 4
EVTCHNSTAT_ipi = 5

# Limits of the two ABIs; bits of a FIFO event word.
EVTCHN_2L_NR_CHANNELS = 4096
EVTCHN_FIFO_PRIORITY_MAX = 0
EVTCHN_FIFO_PRIORITY_DEFAULT = 7
EVTCHN_FIFO_PRIORITY_MIN = 15
EVTCHN_FIFO_MAX_QUEUES = 16
EVTCHN_FIFO_PENDING = 31
EVTCHN_FIFO_MASKED = 30
EVTCHN_FIFO_LINKED = 29
EVTCHN_FIFO_BUSY = 28
EVTCHN_FIFO_LINK_BITS = 17
EVTCHN_FIFO_LINK_MASK = 0x1FFFF
EVTCHN_FIFO_NR_CHANNELS = 0x20000

evtchn_alloc_unbound = Struct(
    "evtchn_alloc_unbound",
    ("dom", u16),
    ("remote_dom", u16),
    ("port", u32),
)

evtchn_bind_interdomain = Struct(
    "evtchn_bind_interdomain",
    ("remote_dom", u16),
    ("remote_port", u32),
    ("local_port", u32),
)

evtchn_bind_virq = Struct(
    "evtchn_bind_virq",
    ("virq", u32),
    ("vcpu", u32),
    ("port", u32),
)

evtchn_bind_pirq = Struct(
    "evtchn_bind_pirq",
    ("pirq", u32),
    ("flags", u32),
    ("port", u32),
)

evtchn_bind_ipi = Struct("evtchn_bind_ipi", ("vcpu", u32), ("port", u32))

evtchn_close = Struct("evtchn_close", ("port", u32))

evtchn_send = Struct("evtchn_send", ("port", u32))

evtchn_status = Struct(
    "evtchn_status",
    ("dom", u16),
    ("port", u32),
    ("status", u32),
    ("vcpu", u32),
    (
        "u",
        Union(
            "u",
            ("unbound", Struct("unbound", ("dom", u16))),
            ("interdomain", Struct("interdomain", ("dom", u16), ("port", u32))),
            ("pirq", u32),
            ("virq", u32),
        ),
    ),
)

evtchn_bind_vcpu = Struct("evtchn_bind_vcpu", ("port", u32), ("vcpu", u32))

evtchn_unmask = Struct("evtchn_unmask", ("port", u32))

evtchn_reset = Struct("evtchn_reset", ("dom", u16))

evtchn_init_control = Struct(
    "evtchn_init_control",
    ("control_gfn", u64),
    ("offset", u32),
    ("vcpu", u32),
    ("link_bits", u8),
    ("_pad", u8 * 7),
)

evtchn_expand_array = Struct("evtchn_expand_array", ("array_gfn", u64))

evtchn_set_priority = Struct("evtchn_set_priority", ("port", u32), ("priority", u32))

evtchn_op = Struct(
    "evtchn_op",
    ("cmd", u32),
    (
        "u",
        Union(
            "u",
            ("alloc_unbound", evtchn_alloc_unbound),
            ("bind_interdomain", evtchn_bind_interdomain),
            ("bind_virq", evtchn_bind_virq),
            ("bind_pirq", evtchn_bind_pirq),
            ("bind_ipi", evtchn_bind_ipi),
            ("close", evtchn_close),
            ("send", evtchn_send),
            ("status", evtchn_status),
            ("bind_vcpu", evtchn_bind_vcpu),
            ("unmask", evtchn_unmask),
        ),
    ),
)
"""Argument of the old event_channel_op_compat."""

evtchn_fifo_control_block = Struct(
    "evtchn_fifo_control_block",
    ("ready", u32),
    ("_rsvd", u32),
    ("head", u32 * 16),
)
"""Queue heads of one vCPU in the FIFO ABI."""

EVTCHNOP_NAMES = number_names(globals(), "EVTCHNOP_", keep=False)
EVTCHNSTAT_NAMES = number_names(globals(), "EVTCHNSTAT_", keep=False)

EVTCHNSTAT_TEXT = {
    EVTCHNSTAT_closed: "not in use",
    EVTCHNSTAT_unbound: "waiting for the remote domain to bind",
    EVTCHNSTAT_interdomain: "connected to a port of a domain",
    EVTCHNSTAT_pirq: "bound to a physical interrupt",
    EVTCHNSTAT_virq: "bound to a virtual interrupt",
    EVTCHNSTAT_ipi: "for interrupts between the domain's own vCPUs",
}
"""What each state means, for people."""
