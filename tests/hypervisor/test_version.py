"""xen_version."""

from __future__ import annotations

import dataclasses

import pytest

from pyvmm.abi import errno, xen
from pyvmm.abi import version as abi
from tests.hypervisor.native_host import WILD, Guest, NativeHost


@pytest.fixture
def host() -> NativeHost:
    return NativeHost()


def ask(guest: Guest, cmd: int, arg: int = 0) -> int:
    return guest.call(xen.HYPERVISOR_xen_version, cmd, arg)


def text(guest: Guest, cmd: int, size: int) -> bytes:
    va = guest.api.scratch(b"\xaa" * (size + 8))
    assert ask(guest, cmd, va) == 0
    data = guest.api.read(va, size + 8)
    assert data[size:] == b"\xaa" * 8  # not a byte more than the structure
    return data[:size]


def features(guest: Guest) -> int:
    va = guest.api.scratch(abi.xen_feature_info.pack(submap_idx=0))
    assert ask(guest, abi.XENVER_get_features, va) == 0
    return int(abi.xen_feature_info.unpack(guest.api.read(va, 8)).submap)


def test_number(host: NativeHost) -> None:
    assert ask(host.one, abi.XENVER_version, WILD) == 4 << 16 | 17
    assert ask(host.one, 1 << 32, WILD) == 4 << 16 | 17  # the command has 32 bits
    assert ask(host.one, 11) == -errno.ENOSYS


def test_texts_fill_their_fields(host: NativeHost) -> None:
    assert text(host.one, abi.XENVER_extraversion, 16) == b".7".ljust(16, b"\0")
    assert text(host.one, abi.XENVER_capabilities, 1024).rstrip(b"\0") == b"xen-3.0-x86_64 "
    assert text(host.one, abi.XENVER_changeset, 64).rstrip(b"\0") == b"unavailable"
    info = abi.xen_compile_info.unpack(text(host.one, abi.XENVER_compile_info, abi.xen_compile_info.size))
    assert info.compile_by.rstrip(b"\0") == b"pyvmm"


def test_texts_too_long_are_cut_and_terminated(host: NativeHost) -> None:
    host.hv.version = dataclasses.replace(host.hv.version, extraversion=b"x" * 40)
    assert text(host.one, abi.XENVER_extraversion, 16) == b"x" * 15 + b"\0"


@pytest.mark.parametrize("cmd", [1, 2, 3, 4, 5, 6, 8, 9])
def test_wild_pointers(host: NativeHost, cmd: int) -> None:
    assert ask(host.dom0, cmd, WILD) == -errno.EFAULT


def test_platform_parameters(host: NativeHost) -> None:
    assert int.from_bytes(text(host.one, abi.XENVER_platform_parameters, 8), "little") == 0xFFFF_8000_0000_0000


def test_features_as_the_real_xen_gives_them(host: NativeHost) -> None:
    assert features(host.one) == 0x220E0
    host.dom0.call(xen.HYPERVISOR_vm_assist, xen.VMASST_CMD_enable, xen.VMASST_TYPE_pae_extended_cr3)
    assert features(host.dom0) == 0x228F0
    va = host.one.api.scratch(abi.xen_feature_info.pack(submap_idx=1))
    assert ask(host.one, abi.XENVER_get_features, va) == -errno.EINVAL


def test_pagesize_takes_no_argument(host: NativeHost) -> None:
    assert ask(host.one, abi.XENVER_pagesize) == 4096
    assert ask(host.one, abi.XENVER_pagesize, 1) == -errno.EINVAL


def test_guest_handle(host: NativeHost) -> None:
    host.one.domain.handle = bytes(range(16))
    assert text(host.one, abi.XENVER_guest_handle, 16) == bytes(range(16))


def test_command_line_is_denied_to_guests(host: NativeHost) -> None:
    host.hv.version = dataclasses.replace(host.hv.version, command_line=b"dom0_mem=512M")
    assert text(host.dom0, abi.XENVER_commandline, 1024).rstrip(b"\0") == b"dom0_mem=512M"
    assert text(host.one, abi.XENVER_commandline, 9) == b"<denied>\0"


def test_build_id(host: NativeHost) -> None:
    assert ask(host.one, abi.XENVER_build_id) == -errno.EPERM
    assert ask(host.dom0, abi.XENVER_build_id) == 20

    def fetch(room: int) -> tuple[int, bytes]:
        va = host.dom0.api.scratch(room.to_bytes(4, "little") + bytes(20))
        return ask(host.dom0, abi.XENVER_build_id, va), host.dom0.api.read(va + 4, 20)

    assert fetch(20) == (20, host.hv.version.build_id)
    assert fetch(64) == (20, host.hv.version.build_id)
    assert fetch(19) == (-errno.ENOBUFS, bytes(20))
    assert fetch(0)[0] == -errno.EINVAL
    assert ask(host.dom0, abi.XENVER_build_id, WILD) == -errno.EFAULT
