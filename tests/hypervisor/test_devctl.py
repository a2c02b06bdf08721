"""devctl and the device page: the published ABI, with none of the original's faults, and the notification of ours."""

from __future__ import annotations

from typing import Any

import pytest

from pyvmm.abi import devctl as abi
from pyvmm.abi import errno, event_channel, xen
from pyvmm.hypervisor import lifecycle
from tests.hypervisor.native_host import PAGE, WILD, Guest, NativeHost

VIF, VBD, SYSCTL = abi.noxs_dev_vif, abi.noxs_dev_vbd, abi.noxs_dev_sysctl
WINDOW = 1 << 32
ARGUMENT = 30 * PAGE


@pytest.fixture
def host() -> NativeHost:
    return NativeHost()


def devctl(guest: Guest, cmd: int, domid: int, u: dict[str, Any] | None = None, version: int = 1) -> tuple[int, Any]:
    """The hypercall: its result and the structure afterwards."""
    u = u or {"get": {"mfn": 0}}
    va = ARGUMENT
    guest.api.write(va, abi.xen_devctl.pack(version=version, cmd=cmd, domain=domid, u=u))
    result = guest.call(abi.HYPERVISOR_devctl, va)
    return result, abi.xen_devctl.unpack(guest.api.read(va, abi.xen_devctl.size))


def add(
    host: NativeHost, type_: int, id_: int, *, domid: int = 1, be_id: int = 0, grant: int = 8, port: int = 3
) -> int:
    dev = {"type": type_, "id": id_, "be_id": be_id, "comm": {"grant": grant, "evtchn": port}}
    return devctl(host.dom0, abi.XEN_DEVCTL_dev_add, domid, {"dev_add": {"dev": dev}})[0]


def remove(host: NativeHost, type_: int, id_: int, *, domid: int = 1, be_id: int = 0) -> int:
    key = {"type": type_, "be_id": be_id, "fe_id": domid, "devid": id_}
    return devctl(host.dom0, abi.XEN_DEVCTL_dev_rem, domid, {"dev_rem": {"key": key}})[0]


def page_of(guest: Guest) -> Any:
    """The device page as the guest finds and reads it."""
    result, answer = devctl(guest, abi.XEN_DEVCTL_get, xen.DOMID_SELF)
    assert result == 0
    address = answer.u.get.mfn
    assert address % PAGE == 0 and address < 1 << 32
    assert guest.call(xen.HYPERVISOR_update_va_mapping, WINDOW, address | 5, xen.UVMF_NONE) == 0
    return abi.dev_page.unpack(guest.api.read(WINDOW, abi.dev_page.size))


def devices(page: Any, scan: int = abi.NOXS_DEV_COUNT_MAX) -> list[tuple[int, int]]:
    """What a guest finds that scans so many entries."""
    return [(dev.type, dev.id) for dev in page.devs[:scan] if dev.type != abi.noxs_dev_none]


def test_a_guest_finds_its_devices(host: NativeHost) -> None:
    assert devices(page_of(host.one)) == [] and page_of(host.one).dev_count == 0
    assert add(host, SYSCTL, 0, grant=9, port=4) == 0
    assert add(host, VIF, 0, be_id=2) == 0
    page = page_of(host.one)
    assert (page.version, page.dev_count) == (0, 2)
    first = page.devs[0]
    assert (first.type, first.id, first.be_id, first.comm.grant, first.comm.evtchn) == (SYSCTL, 0, 0, 9, 4)
    assert page.devs[1].be_id == 2
    assert devices(page_of(host.two)) == []


def test_the_page_is_read_only(host: NativeHost) -> None:
    _, answer = devctl(host.one, abi.XEN_DEVCTL_get, xen.DOMID_SELF)
    mapped = host.one.call(xen.HYPERVISOR_update_va_mapping, WINDOW, answer.u.get.mfn | 7, xen.UVMF_NONE)
    assert mapped < 0
    # Nor may another domain map it, unless it is dom0.
    other = host.two.call(xen.HYPERVISOR_update_va_mapping, WINDOW, answer.u.get.mfn | 5, xen.UVMF_NONE)
    assert other < 0


def test_thirty_two_devices_and_no_more(host: NativeHost) -> None:
    for i in range(32):
        assert add(host, VIF, i) == 0
    assert add(host, VIF, 32) == -errno.ENOBUFS == add(host, VBD, 0)
    assert add(host, VIF, 5) == -errno.EEXIST
    assert page_of(host.one).dev_count == 32 and len(devices(page_of(host.one))) == 32
    assert remove(host, VIF, 7) == 0
    assert add(host, VBD, 0) == 0  # takes the hole
    assert (page_of(host.one).devs[7].type, page_of(host.one).devs[7].id) == (VBD, 0)


def test_removal_is_exact_and_leaves_the_others_to_be_seen(host: NativeHost) -> None:
    """Neither the same type nor the same number is enough; a device after a hole is found by either way to scan."""
    for type_, id_ in ((SYSCTL, 0), (VIF, 0), (VIF, 1), (VBD, 0)):
        assert add(host, type_, id_) == 0
    assert remove(host, VIF, 2) == -errno.ENOENT == remove(host, VIF, 0, be_id=2)
    assert remove(host, VIF, 0) == 0
    assert remove(host, VIF, 0) == -errno.ENOENT
    left = [(SYSCTL, 0), (VIF, 1), (VBD, 0)]
    page = page_of(host.one)
    assert devices(page) == devices(page, page.dev_count) == left
    assert page.dev_count == 4  # a high-water mark
    assert remove(host, VBD, 0) == 0 and page_of(host.one).dev_count == 3
    assert remove(host, VIF, 1) == 0 and page_of(host.one).dev_count == 1
    assert remove(host, SYSCTL, 0) == 0 and page_of(host.one).dev_count == 0
    assert bytes(host.one.api.read(WINDOW, abi.dev_page.size)) == bytes(abi.dev_page.size)


def test_enum_packs(host: NativeHost) -> None:
    for i in range(3):
        add(host, VIF, i)
    remove(host, VIF, 1)
    result, answer = devctl(host.dom0, abi.XEN_DEVCTL_dev_enum, 1)
    listed = answer.u.dev_enum
    assert result == 0 and listed.dev_count == 2
    assert [(dev.type, dev.id) for dev in listed.devs[:3]] == [(VIF, 0), (VIF, 2), (0, 0)]


def test_errors(host: NativeHost) -> None:
    get, enum, one = abi.XEN_DEVCTL_get, abi.XEN_DEVCTL_dev_enum, host.one
    assert one.call(abi.HYPERVISOR_devctl, WILD) == -errno.EFAULT
    for version in (0, 2):
        assert devctl(host.dom0, get, 1, version=version)[0] == -errno.EACCES
    assert devctl(one, get, 1)[0] == 0 == devctl(host.dom0, get, 1)[0]
    assert devctl(one, get, 2)[0] == -errno.EPERM == devctl(one, enum, 1)[0] == devctl(one, 99, 1)[0]
    assert devctl(host.dom0, get, 77)[0] == -errno.ESRCH == devctl(host.dom0, enum, xen.DOMID_SELF)[0]
    assert devctl(host.dom0, 0, 1)[0] == -errno.ENOSYS == devctl(host.dom0, 5, 1)[0]
    assert add(host, abi.noxs_dev_none, 0) == -errno.EINVAL == add(host, VIF, 0, be_id=9)
    assert add(host, VIF, 0, domid=77) == -errno.ESRCH
    assert devices(page_of(one)) == []


def test_the_answer_must_be_writable(host: NativeHost) -> None:
    """The structure in a page that is mapped read-only: read, served, but not written."""
    one, va = host.one, 20 * PAGE
    one.api.write(va, abi.xen_devctl.pack(version=1, cmd=abi.XEN_DEVCTL_get, domain=1, u={"get": {"mfn": 0}}))
    assert one.call(xen.HYPERVISOR_update_va_mapping, va, one.mfn(va) << 12 | 5, xen.UVMF_NONE) == 0
    assert one.call(abi.HYPERVISOR_devctl, va) == -errno.EFAULT


def test_a_guest_hears_of_devices_that_come_and_go(host: NativeHost) -> None:
    one = host.one
    _, bound = one.evtchn(event_channel.EVTCHNOP_bind_virq, event_channel.evtchn_bind_virq, virq=abi.VIRQ_NOXS, vcpu=0)
    evtchn = one.domain.evtchn

    def heard() -> bool:
        pending = evtchn.is_pending(bound.port)
        evtchn._clear_pending(bound.port)
        return pending

    assert not heard()
    assert add(host, VIF, 0) == 0 and heard()
    assert add(host, VIF, 0) < 0 and not heard()
    assert remove(host, VIF, 1) < 0 and not heard()
    assert remove(host, VIF, 0) == 0 and heard()
    assert add(host, VIF, 0, domid=2) == 0 and not heard()  # who has not bound it notices nothing


def test_the_page_goes_back(host: NativeHost) -> None:
    hv = host.hv
    before = hv.frames.free_count
    guest = Guest(hv, 3)
    page_of(guest)
    add(host, VIF, 0, domid=3)
    lifecycle.destroy_domain(guest.domain)
    assert hv.frames.free_count == before
    hv.frames.check()


def test_a_new_domain_with_the_number_of_an_old_one_has_no_devices(host: NativeHost) -> None:
    guest = Guest(host.hv, 3)
    add(host, VIF, 0, domid=3)
    lifecycle.destroy_domain(guest.domain)
    assert devices(page_of(Guest(host.hv, 3))) == []
