"""devctl (hypercall 41) and the device page: noxs, how a guest learns of its devices without a XenStore.

Every domain has a device page, one frame of the hypervisor's that the guest may map read-only. The control domain
enters a device into it (`dev_add`: type, number, back-end domain, grant of the control page, event channel) and takes
it out again; the guest asks for the page's machine address (`get`), maps it and scans its 32 entries.

Compatible with what LightVM's authors published (numbers, layout, errno), without the faults of their hypervisor:
- `dev_rem` removes the one device with that type and number (of that back end), -ENOENT when there is none;
- `dev_add` answers -EEXIST for a type and number that are there, -ENOBUFS when all 32 entries are taken;
- an unknown command is -ENOSYS;
- `dev_count` in the page is one more than the highest entry in use, not a count: a guest that scans entries
  0..dev_count-1 (theirs) sees every device in spite of holes, one that scans all 32 (ours) does, too;
- an entry's `type` is written last and cleared first, so that a guest never sees half an entry.

Ours: whenever an entry comes or goes, the guest gets `VIRQ_NOXS`, if it has bound it (on vCPU 0, as any global virq).
A guest that knows nothing of it does not bind it, and notices nothing. See docs/xenbus.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from pyvmm.abi import devctl as abi
from pyvmm.abi import errno, xen
from pyvmm.hypervisor import event_channel, misc
from pyvmm.hypervisor.errors import XenError
from pyvmm.hypervisor.hypercalls import hypercall
from pyvmm.hypervisor.permissions import require_privileged

if TYPE_CHECKING:
    from pyvmm.hypervisor.domain import Domain
    from pyvmm.hypervisor.vcpu import VCpu

PAGE = 4096
BELOW_4G = 1 << (32 - 12)  # the authors' promise to 32-bit guests
DOMIDS = 0xFFFF
COUNT: int = abi.NOXS_DEV_COUNT_MAX
_ENTRY = abi.dev_page_entry
_DEVS: int = abi.dev_page.devs.offset
_NO_DEVICES = bytes(COUNT * _ENTRY.size)
_DEV_COUNT: int = abi.dev_page.dev_count.offset


class Entry(NamedTuple):
    """One device: what an entry of the page says."""

    type: int
    id: int
    be_id: int
    grant: int
    evtchn: int


def setup(domain: Domain) -> None:
    """Give a new domain its device page. XenError(ENOMEM)."""
    frames = domain.hv.frames
    mfn = frames.alloc_xen_order(0, below=BELOW_4G)
    frames.share_with_guest(mfn, domain, False)
    domain.device_page_mfn = mfn


def destroy(domain: Domain) -> None:
    """The page goes back with the domain's frames: with the last mapping of it."""
    mfn, domain.device_page_mfn = domain.device_page_mfn, 0
    if mfn:
        domain.hv.frames.free_xen(mfn)


def entries(domain: Domain) -> dict[int, Entry]:
    """The devices of `domain`, by slot. The guest cannot write the page, so it is the one place where they are kept."""
    data = domain.hv.machine.ram.read(domain.device_page_mfn * PAGE + _DEVS, COUNT * _ENTRY.size)
    found: dict[int, Entry] = {}
    if data == _NO_DEVICES:
        return found
    for slot in range(COUNT):
        at = slot * _ENTRY.size
        if int.from_bytes(data[at : at + 4], "little") != abi.noxs_dev_none:
            entry = _ENTRY.unpack(data, at)
            found[slot] = Entry(entry.type, entry.id, entry.be_id, entry.comm.grant, entry.comm.evtchn)
    return found


def _write(domain: Domain, slot: int, entry: Entry | None, highest: int) -> None:
    """Put an entry into the page (None: take it out), its type last (first), and tell the guest."""
    ram, base = domain.hv.machine.ram, domain.device_page_mfn * PAGE
    at = base + _DEVS + slot * _ENTRY.size
    if entry is None:
        ram.write_u32(at, abi.noxs_dev_none)
        ram.fill(at, _ENTRY.size, 0)
    else:
        comm = {"grant": entry.grant, "evtchn": entry.evtchn}
        ram.write(at, _ENTRY.pack(type=abi.noxs_dev_none, id=entry.id, be_id=entry.be_id, comm=comm))
        ram.write_u32(at, entry.type)
    ram.write_u32(base + _DEV_COUNT, highest + 1)
    event_channel.send_guest_virq(domain, abi.VIRQ_NOXS)


# -- commands ----------------------------------------------------------------------------------------------------------


def _get(domain: Domain, u: Any) -> dict[str, Any]:
    return {"get": {"mfn": domain.device_page_mfn * PAGE}}  # an address in bytes, in spite of the name


def _dev_add(domain: Domain, u: Any) -> None:
    dev = u.dev_add.dev
    entry = Entry(dev.type, dev.id, dev.be_id, dev.comm.grant, dev.comm.evtchn)
    if entry.type == abi.noxs_dev_none or entry.be_id not in domain.hv.domains:
        raise XenError(errno.EINVAL)
    present = entries(domain)
    if any((other.type, other.id) == (entry.type, entry.id) for other in present.values()):
        raise XenError(errno.EEXIST)
    slot = next((slot for slot in range(COUNT) if slot not in present), None)
    if slot is None:
        raise XenError(errno.ENOBUFS)
    _write(domain, slot, entry, max(slot, *present, -1))


def _dev_rem(domain: Domain, u: Any) -> None:
    key = u.dev_rem.key
    present = entries(domain)
    for slot, entry in present.items():
        if (entry.type, entry.id, entry.be_id) == (key.type, key.devid, key.be_id):
            del present[slot]
            _write(domain, slot, None, max(present, default=-1))
            return
    raise XenError(errno.ENOENT)


def _dev_enum(domain: Domain, u: Any) -> dict[str, Any]:
    devs = [
        {"type": e.type, "id": e.id, "be_id": e.be_id, "comm": {"grant": e.grant, "evtchn": e.evtchn}}
        for e in entries(domain).values()
    ]
    none = {"type": 0, "id": 0, "be_id": 0, "comm": {"grant": 0, "evtchn": 0}}
    return {"dev_enum": {"dev_count": len(devs), "devs": devs + [none] * (COUNT - len(devs))}}


_COMMANDS: dict[int, Callable[[Domain, Any], dict[str, Any] | None]] = {
    abi.XEN_DEVCTL_get: _get,
    abi.XEN_DEVCTL_dev_add: _dev_add,
    abi.XEN_DEVCTL_dev_rem: _dev_rem,
    abi.XEN_DEVCTL_dev_enum: _dev_enum,
}


@hypercall(abi.HYPERVISOR_devctl, "uop", "nr_bufs", "bufs", name="devctl")
def devctl(v: VCpu, uop: int, nr_bufs: int, bufs: int) -> int:
    """One `xen_devctl`. A first argument that could be a domid, and leads to no such structure, is
    Xen 4.17's dm_op.

    -EFAULT: not readable (writable); -EACCES: another version; -EPERM: not the control domain (any domain may get its
    own page); -ESRCH: no such domain; -ENOSYS: no such command."""
    try:
        op = abi.xen_devctl.unpack(v.copy_in(uop, abi.xen_devctl.size))
        if op.version != abi.XEN_DEVCTL_VERSION:
            raise XenError(errno.EACCES)
    except XenError:
        if uop <= DOMIDS:
            return misc.dm_op(v, uop)
        raise
    own = op.cmd == abi.XEN_DEVCTL_get and op.domain in (xen.DOMID_SELF, v.domain.domid)
    if not own:
        require_privileged(v.domain)
    command = _COMMANDS.get(op.cmd)
    if command is None:
        return -errno.ENOSYS
    domain = v.domain if own else v.hv.domains.get(op.domain)
    if domain is None or domain.dying:
        return -errno.ESRCH
    answer = command(domain, op.u)
    if answer is not None:
        v.copy_out(uop, abi.xen_devctl.pack(version=op.version, cmd=op.cmd, domain=op.domain, u=answer))
    return 0
