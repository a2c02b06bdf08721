"""`Struct` and its kin against ctypes, which computes C layouts on its own."""

from __future__ import annotations

import ctypes
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.abi import event_channel, xen
from pyvmm.abi.io import ring
from pyvmm.abi.layout import Array, Scalar, Struct, Type, Union, char, handle, s8, s16, s32, s64, u8, u16, u32, u64

C_SCALARS: dict[Scalar, Any] = {
    u8: ctypes.c_uint8,
    u16: ctypes.c_uint16,
    u32: ctypes.c_uint32,
    u64: ctypes.c_uint64,
    s8: ctypes.c_int8,
    s16: ctypes.c_int16,
    s32: ctypes.c_int32,
    s64: ctypes.c_int64,
    handle: ctypes.c_uint64,
    char: ctypes.c_uint8,
}


def members(inner: st.SearchStrategy[Type]) -> st.SearchStrategy[list[tuple[str, Type]]]:
    return st.lists(inner, min_size=1, max_size=5).map(lambda types: [(f"m{i}", t) for i, t in enumerate(types)])


types = st.recursive(
    st.sampled_from(list(C_SCALARS)),
    lambda inner: st.one_of(
        st.builds(Array, inner, st.integers(1, 4)),
        members(inner).map(lambda found: Struct("s", *found)),
        members(inner).map(lambda found: Union("u", *found)),
    ),
    max_leaves=12,
)
structs = members(types).map(lambda found: Struct("outer", *found))


def in_ctypes(type_: Type) -> Any:
    if isinstance(type_, Scalar):
        return C_SCALARS[type_]
    if isinstance(type_, Array):
        return in_ctypes(type_.element) * type_.count
    assert isinstance(type_, Struct | Union)
    base = ctypes.Structure if isinstance(type_, Struct) else ctypes.Union
    fields = [(name, in_ctypes(field.type)) for name, field in type_.fields.items()]
    return type(type_.name, (base,), {"_fields_": fields})


def same(ours: Any, theirs: Any, type_: Type) -> bool:
    """Whether the unpacked value equals what ctypes reads from the same bytes."""
    if isinstance(type_, Scalar):
        return bool(ours == theirs)
    if isinstance(type_, Array):
        return len(ours) == len(theirs) and all(same(a, b, type_.element) for a, b in zip(ours, theirs, strict=True))
    assert isinstance(type_, Struct | Union)
    return all(same(getattr(ours, name), getattr(theirs, name), field.type) for name, field in type_.fields.items())


@given(structs)
def test_sizes_and_offsets(table: Struct) -> None:
    theirs = in_ctypes(table)
    assert (table.size, table.align) == (ctypes.sizeof(theirs), ctypes.alignment(theirs))
    for name, field in table.fields.items():
        assert (field.offset, field.size) == (getattr(theirs, name).offset, getattr(theirs, name).size)


@given(structs, st.integers(0, 16), st.data())
def test_unpack_and_pack(table: Struct, offset: int, data: st.DataObject) -> None:
    raw = data.draw(st.binary(min_size=table.size, max_size=table.size))
    value = table.unpack(b"?" * offset + raw + b"!", offset)
    assert same(value, in_ctypes(table).from_buffer_copy(raw), table)
    again = table.pack(**dict(zip(table.fields, value, strict=True)))
    assert len(again) == table.size
    assert table.unpack(again) == value
    assert table.unpack_array(again + again, 2) == [value, value]


def test_members_not_given_are_zero_and_unknown_ones_are_refused() -> None:
    assert event_channel.evtchn_bind_virq.pack(port=7) == struct.pack("<III", 0, 0, 7)
    assert xen.vcpu_info.pack() == bytes(64)
    for table in (event_channel.evtchn_send, xen.vcpu_info):
        with pytest.raises(TypeError, match="no member prot"):
            table.pack(prot=1)
    with pytest.raises(struct.error):
        event_channel.evtchn_send.pack(port=1 << 32)
    with pytest.raises(ValueError, match="do not fit"):
        xen.start_info.pack(magic=b"x" * 33)
    with pytest.raises(struct.error):
        event_channel.evtchn_send.unpack(b"abc")


def test_unions() -> None:
    status = event_channel.evtchn_status
    raw = status.pack(port=3, status=2, u={"interdomain": {"dom": 5, "port": 9}})
    value = status.unpack(raw)
    assert (value.u.interdomain.dom, value.u.interdomain.port) == (5, 9)
    assert status.pack(port=3, status=2, u=value.u) == raw
    chosen = status.choose(u="virq")
    assert chosen.unpack(chosen.pack(u=12)).u == 12
    assert chosen.size == status.size
    with pytest.raises(TypeError, match="not a union"):
        status.choose(port="virq")
    with pytest.raises(AttributeError, match="no member nothing"):
        status.choose(u="nothing")


def test_places_inside() -> None:
    info = xen.shared_info
    assert info.vcpu_info[3].time.system_time.offset == 3 * 64 + 32 + 16
    assert info.vcpu_info[3].time.size == 32
    with pytest.raises(IndexError):
        info.vcpu_info[32]
    with pytest.raises(AttributeError):
        _ = info.vcpu_inf
    with pytest.raises(AttributeError):
        _ = info.arch.nothing


@pytest.mark.parametrize(
    ("entry", "slots"),
    [(12, 256), (8, 256), (112, 32), (4032, 1)],
    ids=["network transmit", "network receive", "block", "whole page"],
)
def test_ring_sizes(entry: int, slots: int) -> None:
    """The slot counts of the well-known one-page rings."""
    assert ring.ring_size(entry) == slots


def test_ring_notification() -> None:
    assert ring.needs_notify(0, 1, 1)
    assert not ring.needs_notify(0, 1, 2)
    assert ring.needs_notify(0xFFFFFFFF, 2, 0)
    assert not ring.needs_notify(5, 5, 5)
    with pytest.raises(ValueError, match="no entry"):
        ring.ring_size(4033)
