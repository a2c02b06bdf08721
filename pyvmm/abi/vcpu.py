"""One vCPU: bringing it up and down, its runstate, timers and its own info areas (vcpu_op).

Source: Xen 4.17 public/vcpu.h.
The argument of `VCPUOP_x` is the structure `vcpu_x` (`vcpu_runstate_info` for the runstate, `vcpu_guest_context` for
initialise).
"""

from pyvmm.abi.layout import Struct, Union, handle, number_names, s32, u32, u64

# Sub-operations.
VCPUOP_initialise = 0
VCPUOP_up = 1
VCPUOP_down = 2
VCPUOP_is_up = 3
VCPUOP_get_runstate_info = 4
VCPUOP_register_runstate_memory_area = 5
VCPUOP_set_periodic_timer = 6
VCPUOP_stop_periodic_timer = 7
VCPUOP_set_singleshot_timer = 8
VCPUOP_stop_singleshot_timer = 9
VCPUOP_register_vcpu_info = 10
VCPUOP_send_nmi = 11
VCPUOP_get_physid = 12
VCPUOP_register_vcpu_time_memory_area = 13

# In vcpu_runstate_info.state_entry_time while Xen is updating it.
XEN_RUNSTATE_UPDATE = 1 << 63

# vcpu_runstate_info.state; also the index into its .time.
RUNSTATE_running = 0
RUNSTATE_runnable = 1
RUNSTATE_blocked = 2
RUNSTATE_offline = 3

# vcpu_set_singleshot_timer.flags.
VCPU_SSHOTTMR_future = 1 << 0

vcpu_runstate_info = Struct(
    "vcpu_runstate_info",
    ("state", s32),
    ("state_entry_time", u64),
    ("time", u64 * 4),
)
"""How long, in nanoseconds, a vCPU was in each state, and since when it is in its present one."""

vcpu_register_runstate_memory_area = Struct(
    "vcpu_register_runstate_memory_area", ("addr", Union("addr", ("h", handle), ("v", handle), ("p", u64)))
)

vcpu_set_periodic_timer = Struct("vcpu_set_periodic_timer", ("period_ns", u64))

vcpu_set_singleshot_timer = Struct("vcpu_set_singleshot_timer", ("timeout_abs_ns", u64), ("flags", u32))

vcpu_register_vcpu_info = Struct(
    "vcpu_register_vcpu_info",
    ("mfn", u64),
    ("offset", u32),
    ("rsvd", u32),
)

vcpu_get_physid = Struct("vcpu_get_physid", ("phys_id", u64))

vcpu_register_time_memory_area = Struct(
    "vcpu_register_time_memory_area", ("addr", Union("addr", ("h", handle), ("v", handle), ("p", u64)))
)

VCPUOP_NAMES = number_names(globals(), "VCPUOP_", keep=False)
RUNSTATE_NAMES = number_names(globals(), "RUNSTATE_", keep=False)
