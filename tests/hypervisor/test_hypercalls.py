"""The hypercall table as a whole, and the small hypercalls: console_io, vm_assist, physdev_op, those that say no."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest

from pyvmm.abi import errno, physdev, xen
from pyvmm.hypervisor import hypercalls, lifecycle
from pyvmm.hypervisor.domain import Domain
from pyvmm.hypervisor.errors import XenError
from tests.hypervisor.native_host import WILD, Guest, NativeHost

_U64 = (1 << 64) - 1


@pytest.fixture
def host() -> NativeHost:
    return NativeHost()


def test_unknown_numbers_are_counted_and_refused(host: NativeHost) -> None:
    for number in (11, 31, 38, 39, 43, 63, 1000, 0xFFFF_FFFF):
        assert host.one.call(number, 1, 2, 3) == -errno.ENOSYS
    assert host.one.domain.counters.hypercalls["unknown"] == 5  # one key for all that have no name


def test_signed() -> None:
    assert hypercalls.signed(_U64) == -1
    assert hypercalls.signed(1 << 63) == -(1 << 63)
    assert hypercalls.signed(0xFFFF_FFFF, 32) == -1
    assert hypercalls.signed(5) == 5


HARMLESS = sorted(number for number in range(64) if number not in (xen.HYPERVISOR_domctl,))


def test_wild_arguments_never_get_out_of_the_dispatcher(host: NativeHost) -> None:
    """Whatever a guest passes, it gets a number back, and the books still balance."""
    rng = random.Random(1)
    own = [page * 4096 + offset for page in (3, 20, 40) for offset in (0, 8, 4090)]
    interesting = [
        0,
        1,
        2,
        3,
        7,
        64,
        0xFFFF,
        0x7FF0,
        1 << 31,
        1 << 32,
        WILD,
        1 << 47,
        0xFFFF_8000_0000_0000,
        _U64,
        *own,
    ]
    for guest in (host.one, host.two):
        for _ in range(4000):
            if guest.domain.is_shut_down:
                guest.domain.shutdown_code = None
            with suppress(XenError):  # it may have unmapped the page
                guest.api.write(20 * 4096, bytes(rng.choice([0, 0, 1, 2, 255]) for _ in range(64)))
            args = [rng.choice(interesting) for _ in range(5)]
            result = guest.call(rng.choice(HARMLESS), *args)
            assert hypercalls.signed(result) > -200
    for guest in (host.one, host.two):
        lifecycle.destroy_domain(guest.domain)
    host.hv.frames.check()
    assert list(host.hv.domains) == [0]


# -- console_io


def test_console_write_is_dom0s(host: NativeHost) -> None:
    seen: list[tuple[int, bytes]] = []

    def sink(domain: Domain, data: bytes) -> None:
        seen.append((domain.domid, data))

    host.hv.console_sinks.append(sink)
    va = host.dom0.api.scratch(b"x" * 300)
    assert host.dom0.call(xen.HYPERVISOR_console_io, xen.CONSOLEIO_write, 300, va) == 0
    assert host.one.call(xen.HYPERVISOR_console_io, xen.CONSOLEIO_write, 5, 0) == -errno.EPERM
    assert host.one.call(xen.HYPERVISOR_console_io, 9, 5, 0) == -errno.EPERM
    assert host.dom0.call(xen.HYPERVISOR_console_io, 9, 5, 0) == -errno.ENOSYS
    assert seen == [(0, b"x" * 300)]


def test_console_write_stops_where_memory_ends(host: NativeHost) -> None:
    seen: list[bytes] = []
    host.hv.console_sinks.append(lambda domain, data: seen.append(data))
    end = (host.dom0.pages + 1) * 4096
    host.dom0.api.write(end - 200, b"y" * 200)
    assert host.dom0.call(xen.HYPERVISOR_console_io, xen.CONSOLEIO_write, 300, end - 200) == -errno.EFAULT
    assert seen == [b"y" * 127]
    assert host.dom0.call(xen.HYPERVISOR_console_io, xen.CONSOLEIO_write, 0, WILD) == 0


def test_console_read(host: NativeHost) -> None:
    va = host.dom0.api.scratch(16)

    def read(count: int, to: int = va) -> int:
        return host.dom0.call(xen.HYPERVISOR_console_io, xen.CONSOLEIO_read, count, to)

    assert read(16) == 0
    host.hv.console_input += b"hello"
    assert read(2) == 2
    assert read(16, WILD) == -errno.EFAULT
    assert read(16) == 3 and host.dom0.api.read(va, 3) == b"llo"
    assert read(1 << 31) == -errno.E2BIG
    assert read(0) == 0


# -- vm_assist


@pytest.mark.parametrize("type_", [0, 1, 2, 3, 4, 5, 32])
def test_vm_assist_types(host: NativeHost, type_: int) -> None:
    assert host.one.call(xen.HYPERVISOR_vm_assist, xen.VMASST_CMD_enable, type_) == 0
    assert host.one.domain.vm_assist == 1 << type_
    assert host.one.call(xen.HYPERVISOR_vm_assist, xen.VMASST_CMD_disable, type_) == 0
    assert host.one.domain.vm_assist == 0
    assert host.one.call(xen.HYPERVISOR_vm_assist, 2, type_) == -errno.ENOSYS


@pytest.mark.parametrize("type_", [6, 31, 33, 63, 64, 0xFFFF_FFFF])
def test_vm_assist_types_that_are_none(host: NativeHost, type_: int) -> None:
    for cmd in (0, 1, 2):
        assert host.one.call(xen.HYPERVISOR_vm_assist, cmd, type_) == -errno.EINVAL


# -- physdev_op


def phys(guest: Guest, cmd: int, *words: int) -> int:
    data = b"".join(word.to_bytes(4, "little") for word in words).ljust(48, b"\0")
    return guest.call(xen.HYPERVISOR_physdev_op, cmd, guest.api.scratch(data))


def test_physdev_unknown_and_wild(host: NativeHost) -> None:
    for cmd in (0, 1, 2, 3, 11, 18, 22, 99):
        assert host.dom0.call(xen.HYPERVISOR_physdev_op, cmd, WILD) == -errno.ENOSYS
    for cmd in (5, 6, 7, 8, 9, 10, 12, 13, 14, 15, 16, 17, 19, 20, 21, 23, 24, 25, 26, 27, 28, 29, 30, 31):
        assert host.dom0.call(xen.HYPERVISOR_physdev_op, cmd, WILD) == -errno.EFAULT, cmd


def test_io_privilege(host: NativeHost) -> None:
    assert phys(host.one, physdev.PHYSDEVOP_set_iopl, 3) == 0
    assert host.one.v.iopl == 3
    assert phys(host.one, physdev.PHYSDEVOP_set_iopl, 4) == -errno.EINVAL
    va = host.one.api.scratch(physdev.physdev_set_iobitmap.pack(bitmap=0x3000, nr_ports=65536))
    assert host.one.call(xen.HYPERVISOR_physdev_op, physdev.PHYSDEVOP_set_iobitmap, va) == 0
    assert (host.one.v.iobitmap_va, host.one.v.iobitmap_ports) == (0x3000, 65536)
    for bitmap, ports in ((0x3000, 65537), (0xFFFF_8000_0000_0000, 1)):
        va = host.one.api.scratch(physdev.physdev_set_iobitmap.pack(bitmap=bitmap, nr_ports=ports))
        assert host.one.call(xen.HYPERVISOR_physdev_op, physdev.PHYSDEVOP_set_iobitmap, va) == -errno.EINVAL


def test_pirqs(host: NativeHost) -> None:
    def map_pirq(guest: Guest, index: int, pirq: int, type_: int = physdev.MAP_PIRQ_TYPE_GSI) -> tuple[int, int]:
        result, op = guest.op(
            xen.HYPERVISOR_physdev_op,
            physdev.PHYSDEVOP_map_pirq,
            physdev.physdev_map_pirq,
            domid=xen.DOMID_SELF,
            type=type_,
            index=index,
            pirq=pirq,
        )
        return result, op.pirq

    assert map_pirq(host.one, 4, -1)[0] == -errno.EPERM
    assert phys(host.dom0, physdev.PHYSDEVOP_eoi, 4) == -errno.EINVAL
    assert map_pirq(host.dom0, 4, -1) == (0, 4)
    assert map_pirq(host.dom0, 4, -1) == (0, 4)
    assert map_pirq(host.dom0, 4, 5)[0] == -errno.EBUSY
    assert map_pirq(host.dom0, 24, -1)[0] == -errno.EINVAL
    assert map_pirq(host.dom0, 0, -1, physdev.MAP_PIRQ_TYPE_MSI)[0] == -errno.ENODEV
    assert phys(host.dom0, physdev.PHYSDEVOP_eoi, 4) == 0
    assert phys(host.one, physdev.PHYSDEVOP_irq_status_query, 4) == 0
    assert phys(host.one, physdev.PHYSDEVOP_irq_status_query, 1000) == -errno.EINVAL
    assert phys(host.dom0, physdev.PHYSDEVOP_unmap_pirq, xen.DOMID_SELF, 4) == 0
    assert phys(host.dom0, physdev.PHYSDEVOP_unmap_pirq, xen.DOMID_SELF, 4) == -errno.EINVAL


def test_eoi_page_is_held_once_and_given_back(host: NativeHost) -> None:
    guest = Guest(host.hv, 5)
    mfn = guest.mfn(40 * 4096)
    va = guest.api.scratch(mfn.to_bytes(8, "little"))
    uses = host.hv.frames.type_count(mfn)
    for cmd, result in ((physdev.PHYSDEVOP_pirq_eoi_gmfn_v2, 0), (physdev.PHYSDEVOP_pirq_eoi_gmfn_v1, -errno.EBUSY)):
        assert guest.call(xen.HYPERVISOR_physdev_op, cmd, va) == result
    assert host.hv.frames.type_count(mfn) == uses + 1
    va = guest.api.scratch(host.two.mfn(0).to_bytes(8, "little"))
    assert guest.call(xen.HYPERVISOR_physdev_op, physdev.PHYSDEVOP_pirq_eoi_gmfn_v2, va) == -errno.EINVAL
    lifecycle.destroy_domain(guest.domain)
    assert 5 not in host.hv.domains


def test_physdev_needs_privilege_for_devices(host: NativeHost) -> None:
    for cmd in (15, 16, 20, 24, 25, 26, 29, 30, 31):
        assert phys(host.one, cmd) == -errno.EPERM, cmd
        assert phys(host.dom0, cmd) == -errno.ENODEV, cmd


def test_physdev_compat_form(host: NativeHost) -> None:
    va = host.one.api.scratch(physdev.physdev_op.pack(cmd=physdev.PHYSDEVOP_set_iopl, u={"set_iopl": {"iopl": 1}}))
    assert host.one.call(xen.HYPERVISOR_physdev_op_compat, va) == 0
    assert host.one.v.iopl == 1
    assert host.one.call(xen.HYPERVISOR_physdev_op_compat, WILD) == -errno.EFAULT


# -- hypercalls that say no


@pytest.mark.parametrize(
    ("number", "args", "guest", "dom0"),
    [
        (xen.HYPERVISOR_xsm_op, (0,), errno.ENOSYS, errno.ENOSYS),
        (xen.HYPERVISOR_kexec_op, (0, 0), errno.EPERM, errno.ENOSYS),
        (xen.HYPERVISOR_hypfs_op, (1, WILD, 5), errno.EPERM, errno.EFAULT),
        (xen.HYPERVISOR_hypfs_op, (1, 0, 1025), errno.EPERM, errno.EINVAL),
        (xen.HYPERVISOR_hypfs_op, (0, 1), errno.EPERM, errno.EINVAL),
        (xen.HYPERVISOR_arch_0, (WILD,), errno.EPERM, errno.EFAULT),
        (xen.HYPERVISOR_xenpmu_op, (0, 0), errno.EOPNOTSUPP, errno.EOPNOTSUPP),
        (xen.HYPERVISOR_hvm_op, (1, WILD), errno.EFAULT, errno.EFAULT),
        (xen.HYPERVISOR_hvm_op, (99, 0), errno.ENOSYS, errno.ENOSYS),
        (xen.HYPERVISOR_dm_op, (xen.DOMID_SELF, 0, 0), errno.EPERM, errno.EPERM),
        (xen.HYPERVISOR_dm_op, (99, 0, 0), errno.ESRCH, errno.ESRCH),
        (xen.HYPERVISOR_dm_op, (2, 0, 0), errno.EINVAL, errno.EINVAL),
        (xen.HYPERVISOR_argo_op, (0,), errno.ENOSYS, errno.ENOSYS),
        (xen.HYPERVISOR_tmem_op, (0,), errno.ENOSYS, errno.ENOSYS),
    ],
)
def test_refusals(host: NativeHost, number: int, args: tuple[int, ...], guest: int, dom0: int) -> None:
    assert host.one.call(number, *args) == -guest
    assert host.dom0.call(number, *args) == -dom0


def test_hypfs_has_a_version_and_nothing_in_it(host: NativeHost) -> None:
    def read(path: bytes) -> int:
        return host.dom0.call(xen.HYPERVISOR_hypfs_op, 1, host.dom0.api.scratch(path), len(path))

    assert host.dom0.call(xen.HYPERVISOR_hypfs_op, 0) == 1
    assert read(b"/params/x\0") == -errno.ENOENT
    assert read(b"/params/x") == -errno.EINVAL
    assert read(b"params\0") == -errno.EINVAL
    assert read(b"/a\0b\0") == -errno.EINVAL
