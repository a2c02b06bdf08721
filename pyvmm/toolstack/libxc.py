"""The hypercalls of a control domain, as functions: what libxc is to a C toolstack.

All work goes through `Native.hypercall`. A refused call raises `HypercallError` with the errno.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from errno import errorcode
from typing import Any

from pyvmm.abi import arch_x86_64, xen
from pyvmm.abi import domctl as domctl_abi
from pyvmm.abi import event_channel as evtchn_abi
from pyvmm.abi import grant_table as gnttab_abi
from pyvmm.abi import memory as memory_abi
from pyvmm.hypervisor.native import Native

PAGE = 4096
SUPERPAGE_ORDER = 9
COPY_BATCH = 256  # grant copies in one call
SUPERPAGE_BATCH = 512  # superpages asked for in one call, as libxc does
WINDOW = 1 << 32  # where foreign frames are mapped: above all memory of a native domain
PRESENT, WRITABLE = 1, 2
E820_RAM = 1


class HypercallError(Exception):
    """A hypercall was refused: `errno` is Xen's."""

    def __init__(self, name: str, errno: int) -> None:
        super().__init__(f"{name}: {errorcode.get(errno, errno)}")
        self.errno = errno


class Libxc:
    """Hypercalls of the native domain behind `api`."""

    def __init__(self, api: Native) -> None:
        self.api = api
        self._free_windows: list[int] = []
        self._next_window = WINDOW

    def call(self, name: str, number: int, *args: int) -> int:
        """One hypercall; its result, or `HypercallError`."""
        result = self.api.hypercall(number, *args)
        if result < 0:
            raise HypercallError(name, -result)
        return result

    def wallclock(self) -> tuple[int, int]:
        """The time of day: seconds and nanoseconds UTC, from our own shared page and the time since boot."""
        data = self.api.read(self.api.shared_info_va, xen.shared_info.size)
        page = xen.shared_info.unpack(data)
        boot: int = (page.wc_sec | page.wc_sec_hi << 32) * 1_000_000_000 + page.wc_nsec
        return divmod(boot + self.api.v.hv.machine.now, 1_000_000_000)

    # -- domctl

    def domctl(self, cmd: str, domid: int, variant: str = "", /, **fields: Any) -> Any:
        """XEN_DOMCTL_`cmd` with the union's `variant` filled from `fields`; the structure as it came back."""
        data = domctl_abi.xen_domctl.pack(
            cmd=getattr(domctl_abi, f"XEN_DOMCTL_{cmd}"),
            interface_version=domctl_abi.XEN_DOMCTL_INTERFACE_VERSION,
            domain=domid,
            **({"u": {variant: fields}} if variant else {}),
        )
        va = self.api.scratch(data)
        self.call(f"domctl {cmd}", xen.HYPERVISOR_domctl, va)
        return domctl_abi.xen_domctl.unpack(self.api.read(va, len(data)))

    def create_domain(
        self,
        handle: bytes,
        *,
        vcpus: int = 1,
        max_evtchn_port: int = 1023,
        grant_frames: int = 64,
        maptrack: int = 1024,
    ) -> int:
        """A new PV domain, paused and empty; returns its domid. The limits are those that xl gives."""
        answer = self.domctl(
            "createdomain",
            0,
            "createdomain",
            handle=handle,
            flags=0,
            max_vcpus=vcpus,
            max_evtchn_port=max_evtchn_port,
            max_grant_frames=grant_frames,
            max_maptrack_frames=maptrack,
            grant_opts=2,
        )
        domid: int = answer.domain
        return domid

    def get_info(self, domid: int) -> Any:
        """struct xen_domctl_getdomaininfo of `domid`; `HypercallError` (ESRCH) when there is no such domain."""
        answer = self.domctl("getdomaininfo", domid)
        if answer.domain != domid:
            raise HypercallError("domctl getdomaininfo", 3)
        return answer.u.getdomaininfo

    def set_boot_context(self, domid: int, context: bytes) -> None:
        """XEN_DOMCTL_setvcpucontext of vCPU 0. `context` is a whole vcpu_guest_context."""
        assert len(context) == arch_x86_64.vcpu_guest_context.size
        self.domctl("setvcpucontext", domid, "vcpucontext", vcpu=0, ctxt=self.api.scratch(context))

    # -- memory

    def populate(self, domid: int, count: int) -> list[int]:
        """Give `domid` its first `count` frames: in 2 MiB pieces as far as they go, then one by one. Returns their
        mfns, by pfn."""
        mfns: list[int] = []
        whole = count >> SUPERPAGE_ORDER
        while whole:
            batch = min(whole, SUPERPAGE_BATCH)
            firsts = self._populate(domid, range(len(mfns), len(mfns) + (batch << 9), 1 << 9), SUPERPAGE_ORDER)
            for first in firsts:
                mfns += range(first, first + (1 << SUPERPAGE_ORDER))
            whole -= len(firsts)
            if len(firsts) < batch:
                break
        while len(mfns) < count:
            batch = min(count - len(mfns), 4096)
            got = self._populate(domid, range(len(mfns), len(mfns) + batch), 0)
            if len(got) < batch:
                raise HypercallError("memory_op populate_physmap", 12)
            mfns += got
        return mfns

    def _populate(self, domid: int, pfns: Sequence[int], order: int) -> list[int]:
        n = len(pfns)
        extents = self.api.scratch(struct.pack(f"<{n}Q", *pfns))
        request = memory_abi.xen_memory_reservation.pack(
            extent_start=extents, nr_extents=n, extent_order=order, mem_flags=0, domid=domid
        )
        va = self.api.scratch(request)
        done = self.call("memory_op populate_physmap", xen.HYPERVISOR_memory_op, memory_abi.XENMEM_populate_physmap, va)
        return list(struct.unpack(f"<{done}Q", self.api.read(extents, 8 * done)))

    def set_memory_map(self, domid: int, size: int) -> None:
        """Tell what XENMEM_memory_map answers to `domid`: RAM from 0 to `size` bytes."""
        entry = self.api.scratch(struct.pack("<QQI", 0, size, E820_RAM))
        request = memory_abi.xen_foreign_memory_map.pack(domid=domid, map={"nr_entries": 1, "buffer": entry})
        va = self.api.scratch(request)
        self.call("memory_op set_memory_map", xen.HYPERVISOR_memory_op, memory_abi.XENMEM_set_memory_map, va)

    def map_foreign(self, domid: int, mfn: int, *, writable: bool = True) -> int:
        """Map a frame of `domid`; returns the address. To be given back with `unmap`."""
        va = self._free_windows.pop() if self._free_windows else self._next_window
        if va == self._next_window:
            self._next_window += PAGE
        entry = mfn << 12 | PRESENT | (WRITABLE if writable else 0)
        try:
            self.call(
                "update_va_mapping_otherdomain",
                xen.HYPERVISOR_update_va_mapping_otherdomain,
                va,
                entry,
                xen.UVMF_NONE,
                domid,
            )
        except HypercallError:
            self._free_windows.append(va)
            raise
        return va

    def unmap(self, va: int) -> None:
        """Undo `map_foreign`."""
        self.call("update_va_mapping", xen.HYPERVISOR_update_va_mapping, va, 0, xen.UVMF_NONE)
        self._free_windows.append(va)

    @contextmanager
    def mapped(self, domid: int, mfn: int) -> Iterator[int]:
        """A frame of `domid`, mapped writable inside the block."""
        va = self.map_foreign(domid, mfn)
        try:
            yield va
        finally:
            self.unmap(va)

    def reserve_window(self) -> int:
        """An address at which nothing is mapped, for a grant; `release_window` gives it back."""
        va = self._free_windows.pop() if self._free_windows else self._next_window
        if va == self._next_window:
            self._next_window += PAGE
        return va

    def release_window(self, va: int) -> None:
        """Undo `reserve_window`."""
        self._free_windows.append(va)

    def mmuext(self, domid: int, operations: Iterable[dict[str, Any]]) -> None:
        """mmuext_op on frames of `domid`, as many in one call as the scratch area holds."""
        packed = [xen.mmuext_op.pack(**op) for op in operations]
        for i in range(0, len(packed), 512):
            part = packed[i : i + 512]
            va = self.api.scratch(b"".join(part))
            self.call("mmuext_op", xen.HYPERVISOR_mmuext_op, va, len(part), 0, domid)

    def clear_pages(self, domid: int, mfns: Iterable[int]) -> None:
        """Zero frames of `domid` without mapping them."""
        self.mmuext(domid, ({"cmd": xen.MMUEXT_CLEAR_PAGE, "arg1": {"mfn": mfn}} for mfn in mfns))

    def pin_l4(self, domid: int, mfn: int) -> None:
        """Make `mfn` a valid, pinned top-level page table of `domid`; `HypercallError` if it cannot be one."""
        self.mmuext(domid, [{"cmd": xen.MMUEXT_PIN_L4_TABLE, "arg1": {"mfn": mfn}}])

    def update_m2p(self, domid: int, pairs: Iterable[tuple[int, int]]) -> None:
        """Set machine-to-physical entries: (mfn, pfn)."""
        packed = [xen.mmu_update.pack(ptr=mfn << 12 | xen.MMU_MACHPHYS_UPDATE, val=pfn) for mfn, pfn in pairs]
        for i in range(0, len(packed), 512):
            part = packed[i : i + 512]
            self.call("mmu_update", xen.HYPERVISOR_mmu_update, self.api.scratch(b"".join(part)), len(part), 0, domid)

    # -- pages of our own

    def allow_memory(self, domid: int, nbytes: int) -> None:
        """Set how much memory `domid` may have; a control domain has no limit on a real host."""
        self.domctl("max_mem", domid, "max_mem", max_memkb=nbytes >> 10)

    def new_page(self) -> tuple[int, int]:
        """One more zeroed page of our own: (address, mfn). `drop_page` gives it back."""
        va = self.reserve_window()
        try:
            (mfn,) = self._populate(xen.DOMID_SELF, [va // PAGE], 0) or (0,)
            if not mfn:
                raise HypercallError("memory_op populate_physmap", 12)
            entry = mfn << 12 | PRESENT | WRITABLE
            self.call("update_va_mapping", xen.HYPERVISOR_update_va_mapping, va, entry, xen.UVMF_NONE)
        except HypercallError:
            self.release_window(va)
            raise
        return va, mfn

    def drop_page(self, va: int, mfn: int) -> None:
        """Undo `new_page`. A page that others map stays theirs until they let go."""
        self.unmap(va)
        request = memory_abi.xen_memory_reservation.pack(
            extent_start=self.api.scratch(struct.pack("<Q", mfn)), nr_extents=1, domid=xen.DOMID_SELF
        )
        cmd = memory_abi.XENMEM_decrease_reservation
        self.call("memory_op decrease_reservation", xen.HYPERVISOR_memory_op, cmd, self.api.scratch(request))

    # -- event channels

    def _evtchn(self, name: str, cmd: int, type_: Any, **fields: int) -> Any:
        va = self.api.scratch(type_.pack(**fields))
        self.call(f"event_channel_op {name}", xen.HYPERVISOR_event_channel_op, cmd, va)
        return type_.unpack(self.api.read(va, type_.size))

    def alloc_unbound(self, domid: int, remote: int) -> int:
        """A port of `domid` that `remote` may bind to."""
        cmd, type_ = evtchn_abi.EVTCHNOP_alloc_unbound, evtchn_abi.evtchn_alloc_unbound
        port: int = self._evtchn("alloc_unbound", cmd, type_, dom=domid, remote_dom=remote).port
        return port

    def bind_interdomain(self, remote: int, remote_port: int) -> int:
        """A port of our own, bound to one of `remote`'s."""
        cmd, type_ = evtchn_abi.EVTCHNOP_bind_interdomain, evtchn_abi.evtchn_bind_interdomain
        port: int = self._evtchn("bind_interdomain", cmd, type_, remote_dom=remote, remote_port=remote_port).local_port
        return port

    def bind_virq(self, virq: int) -> int:
        """A port for a virtual interrupt, on vCPU 0."""
        cmd, type_ = evtchn_abi.EVTCHNOP_bind_virq, evtchn_abi.evtchn_bind_virq
        port: int = self._evtchn("bind_virq", cmd, type_, virq=virq, vcpu=0).port
        return port

    def notify(self, port: int) -> None:
        """Signal the other end. A port whose other end is gone is no error: the peer may have died."""
        self.api.hypercall(
            xen.HYPERVISOR_event_channel_op,
            evtchn_abi.EVTCHNOP_send,
            self.api.scratch(evtchn_abi.evtchn_send.pack(port=port)),
        )

    def close_port(self, port: int) -> None:
        """Close one of our ports."""
        self._evtchn("close", evtchn_abi.EVTCHNOP_close, evtchn_abi.evtchn_close, port=port)

    # -- grants

    def gnttab(self, name: str, cmd: int, type_: Any, **fields: int) -> Any:
        """grant_table_op `cmd` on one structure; the structure as it came back. A GNTST_* failure is EINVAL."""
        va = self.api.scratch(type_.pack(**fields))
        self.call(f"grant_table_op {name}", xen.HYPERVISOR_grant_table_op, cmd, va, 1)
        answer = type_.unpack(self.api.read(va, type_.size))
        if answer.status:
            raise HypercallError(f"grant_table_op {name} (status {answer.status})", 22)
        return answer

    def grant_frame(self, domid: int) -> int:
        """The first frame of `domid`'s grant table."""
        frames = self.api.scratch(8)
        self.gnttab(
            "setup_table",
            gnttab_abi.GNTTABOP_setup_table,
            gnttab_abi.gnttab_setup_table,
            dom=domid,
            nr_frames=1,
            frame_list=frames,
        )
        (mfn,) = struct.unpack("<Q", self.api.read(frames, 8))
        return int(mfn)

    def map_grant(self, domid: int, ref: int) -> tuple[int, int]:
        """Map what `domid` granted under `ref`; returns (address, handle) for `unmap_grant`."""
        va = self.reserve_window()
        try:
            answer = self.gnttab(
                "map_grant_ref",
                gnttab_abi.GNTTABOP_map_grant_ref,
                gnttab_abi.gnttab_map_grant_ref,
                host_addr=va,
                flags=gnttab_abi.GNTMAP_host_map,
                ref=ref,
                dom=domid,
            )
        except HypercallError:
            self.release_window(va)
            raise
        return va, int(answer.handle)

    def unmap_grant(self, va: int, handle: int) -> None:
        """Undo `map_grant`."""
        cmd, type_ = gnttab_abi.GNTTABOP_unmap_grant_ref, gnttab_abi.gnttab_unmap_grant_ref
        self.gnttab("unmap_grant_ref", cmd, type_, host_addr=va, dev_bus_addr=0, handle=handle)
        self.release_window(va)

    def grant_copy(self, operations: Sequence[bytes]) -> list[int]:
        """Copy between grants and frames of our own: packed gnttab_copy structures. The GNTST_* status of each."""
        size = gnttab_abi.gnttab_copy.size
        at = gnttab_abi.gnttab_copy.status.offset
        done: list[int] = []
        for first in range(0, len(operations), COPY_BATCH):
            part = operations[first : first + COPY_BATCH]
            va = self.api.scratch(b"".join(part))
            cmd = gnttab_abi.GNTTABOP_copy
            self.call("grant_table_op copy", xen.HYPERVISOR_grant_table_op, cmd, va, len(part))
            answer = self.api.read(va, size * len(part))
            done += [status for (status,) in struct.iter_unpack(f"<{at}xh{size - at - 2}x", answer)]
        return done
