"""C structures as tables: declare the fields once, read and write bytes of the x86-64 layout.

    evtchn_status = Struct("evtchn_status", ("dom", u16), ("port", u32), ...)
    evtchn_status.size                      # sizeof
    evtchn_status.port.offset               # offsetof; .size is the member's size
    evtchn_status.unpack(data, offset)      # -> namedtuple
    evtchn_status.pack(dom=1, port=3)       # -> bytes, what is not given is zero

The rules are those of the System V ABI for x86-64: little-endian, every scalar aligned to its size, a structure
aligned to its strictest member and padded to a multiple of that, an array is its elements, a union is as large as its
largest member. A member is a scalar (`u8` .. `u64`, `s8` .. `s64`, `handle` for a guest pointer), an array (`u64 *
8`), another `Struct`, or a `Union`. A C member called as a Python keyword gets an underscore at its end (`in_`); one
that starts with underscores (padding) loses them in the namedtuple.

Unpacked values: integers; `bytes` for arrays of `u8` and `char`; tuples for other arrays; namedtuples for structures;
a `UnionValue` for unions, which decodes the variant one asks for (`value.u.virq`). Where one variant is meant from the
start, `Struct.choose(u="virq")` is the same structure with the union replaced by that variant.
"""

from __future__ import annotations

import struct
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping
from typing import Any

__all__ = [
    "Array",
    "Field",
    "Scalar",
    "Struct",
    "Type",
    "Union",
    "UnionValue",
    "char",
    "handle",
    "number_names",
    "s8",
    "s16",
    "s32",
    "s64",
    "u8",
    "u16",
    "u32",
    "u64",
]

Buffer = bytes | bytearray | memoryview


class Type:
    """What a member can be: has a `size` and an `align` in bytes, and can be repeated (`u32 * 4`)."""

    name: str
    size: int
    align: int

    def __mul__(self, count: int) -> Array:
        return Array(self, count)

    def unpack(self, data: Buffer, offset: int = 0) -> Any:
        """The value stored at `data[offset:]`. `struct.error` if the data is too short."""
        return self._decoder()(data, offset)

    def encode(self, value: Any) -> bytes:
        """The `size` bytes that hold `value`."""
        raise NotImplementedError

    # A type contributes to its structure one piece of a `struct` format and one expression over the flat tuple that
    # the format unpacks to; a whole structure is then one C call and one generated expression.

    def _format(self) -> str:
        raise NotImplementedError

    def _count(self) -> int:
        """How many items `_format` unpacks to."""
        raise NotImplementedError

    def _expression(self, first: int, names: dict[str, Any]) -> str:
        """Python text that makes the value from the flat tuple `t`, whose items start at `first`."""
        raise NotImplementedError

    def _decoder(self) -> Callable[[Buffer, int], Any]:
        found: Callable[[Buffer, int], Any] | None = self.__dict__.get("_compiled")
        if found is None:
            names: dict[str, Any] = {"unpack_from": struct.Struct("<" + self._format()).unpack_from}
            text = f"lambda data, offset: (lambda t: {self._expression(0, names)})(unpack_from(data, offset))"
            if self._is_flat():
                text = "lambda data, offset: new(cls, unpack_from(data, offset))"
                names.update(new=tuple.__new__, cls=self._tuple_class())
            found = eval(text, names)
            self.__dict__["_compiled"] = found
        assert found is not None
        return found

    def _is_flat(self) -> bool:
        return False

    def _tuple_class(self) -> type[tuple[Any, ...]]:
        raise NotImplementedError


class Scalar(Type):
    """An integer (or one `char`), aligned to its size."""

    def __init__(self, name: str, code: str) -> None:
        self.name = name
        self.code = code
        self.size = self.align = struct.calcsize("<" + code)
        self._pack = struct.Struct("<" + code).pack

    def __repr__(self) -> str:
        return self.name

    def encode(self, value: Any) -> bytes:
        return self._pack(value)

    def _format(self) -> str:
        return self.code

    def _count(self) -> int:
        return 1

    def _expression(self, first: int, names: dict[str, Any]) -> str:
        return f"t[{first}]"


u8 = Scalar("u8", "B")
u16 = Scalar("u16", "H")
u32 = Scalar("u32", "I")
u64 = Scalar("u64", "Q")
s8 = Scalar("s8", "b")
s16 = Scalar("s16", "h")
s32 = Scalar("s32", "i")
s64 = Scalar("s64", "q")
char = Scalar("char", "B")
handle = Scalar("handle", "Q")
"""A guest's virtual address (`XEN_GUEST_HANDLE`, C pointers)."""


class Array(Type):
    """`count` elements of one type. Of `u8` or `char`: a byte string, padded with zeros when packed."""

    def __init__(self, element: Type, count: int) -> None:
        self.element = element
        self.count = count
        self.name = f"{element.name} * {count}"
        self.size = element.size * count
        self.align = element.align
        self._bytes = element is u8 or element is char

    def __repr__(self) -> str:
        return self.name

    def encode(self, value: Any) -> bytes:
        data = bytes(value) if self._bytes else b"".join(self.element.encode(item) for item in value)
        if len(data) > self.size:
            raise ValueError(f"{len(data)} bytes do not fit into {self.name}")
        return data.ljust(self.size, b"\0")

    def _format(self) -> str:
        if self._bytes:
            return f"{self.count}s"
        if isinstance(self.element, Scalar):
            return f"{self.count}{self.element.code}"
        return self.element._format() * self.count

    def _count(self) -> int:
        return 1 if self._bytes else self.element._count() * self.count

    def _expression(self, first: int, names: dict[str, Any]) -> str:
        if self._bytes:
            return f"t[{first}]"
        if isinstance(self.element, Scalar):
            return f"t[{first}:{first + self.count}]"
        step = self.element._count()
        items = "".join(self.element._expression(first + i * step, names) + ", " for i in range(self.count))
        return f"({items})"


class Field:
    """Where a member is: its `offset` from the start of the outermost structure, its `size`, its `type`.

    Members of a structure or variants of a union are attributes (`mmuext_op.arg1.mfn`), elements of an array
    are items (`shared_info.vcpu_info[2].time`).
    """

    def __init__(self, name: str, type_: Type, offset: int) -> None:
        self.name = name
        self.type = type_
        self.offset = offset
        self.size = type_.size

    def __repr__(self) -> str:
        return f"<{self.name}: {self.type.name} at {self.offset}>"

    def __getattr__(self, name: str) -> Field:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, key: str | int) -> Field:
        if isinstance(key, int):
            if not isinstance(self.type, Array):
                raise TypeError(f"{self.name} is not an array")
            if not 0 <= key < self.type.count:
                raise IndexError(f"{self.name}[{key}]: it has {self.type.count} elements")
            element = self.type.element
            return Field(f"{self.name}[{key}]", element, self.offset + key * element.size)
        if isinstance(self.type, Struct | Union):
            inner = self.type.fields.get(key)
            if inner is not None:
                return Field(f"{self.name}.{key}", inner.type, self.offset + inner.offset)
        raise AttributeError(f"{self.name} has no member {key}")


class _Members(Type):
    """What structures and unions share: named members, each a `Field`."""

    fields: dict[str, Field]

    def __getattr__(self, name: str) -> Field:
        if name.startswith("__") or name == "fields":
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> Field:
        """The member `name`; needed only for members called as one of this class's own attributes."""
        try:
            return self.fields[name]
        except KeyError:
            raise AttributeError(f"{self.name} has no member {name}") from None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}, {self.size} bytes>"


class Struct(_Members):
    """A C structure: `Struct(name, (member, type), ...)`."""

    def __init__(self, name: str, *members: tuple[str, Type]) -> None:
        self.name = name
        self.fields = {}
        offset = 0
        for member, type_ in members:
            if member in self.fields:
                raise ValueError(f"{name}: {member} is declared twice")
            offset = _align(offset, type_.align)
            self.fields[member] = Field(member, type_, offset)
            offset += type_.size
        self.align = max((type_.align for _, type_ in members), default=1)
        self.size = _align(offset, self.align)
        self._flat = all(isinstance(type_, Scalar) or _is_bytes(type_) for _, type_ in members)
        self._class: type[tuple[Any, ...]] | None = None
        self._packer: tuple[struct.Struct, dict[str, Any]] | None = None

    def choose(self, **variants: str) -> Struct:
        """This structure with each named union replaced by one of its variants, in place: `choose(u="virq")`."""
        chosen = Struct(self.name)
        for name, field in self.fields.items():
            type_ = field.type
            if name in variants:
                if not isinstance(type_, Union):
                    raise TypeError(f"{self.name}.{name} is not a union")
                type_ = type_[variants.pop(name)].type
            chosen.fields[name] = Field(name, type_, field.offset)
        if variants:
            raise AttributeError(f"{self.name} has no member {', '.join(variants)}")
        chosen.size, chosen.align = self.size, self.align
        chosen._flat = all(isinstance(field.type, Scalar) or _is_bytes(field.type) for field in chosen.fields.values())
        return chosen

    def pack(self, **values: Any) -> bytes:
        """The structure's bytes. A member not given is zero.

        Nested structures take a mapping, a sequence in the order of the members (such as what `unpack` gave), or
        bytes; a union takes a mapping with one variant, a `UnionValue` or bytes. Errors: `TypeError` for an unknown
        member, `struct.error` for a number that does not fit.
        """
        if self._flat:
            if self._packer is None:
                zeros: dict[str, Any] = {
                    name: 0 if isinstance(field.type, Scalar) else b"" for name, field in self.fields.items()
                }
                self._packer = struct.Struct("<" + self._format()), zeros
            packer, zeros = self._packer
            merged = {**zeros, **values}
            if len(merged) != len(zeros):
                raise TypeError(f"{self.name} has no member {', '.join(merged.keys() - zeros.keys())}")
            for name in values:
                if not isinstance(field := self.fields[name].type, Scalar):
                    merged[name] = field.encode(merged[name])
            return packer.pack(*merged.values())
        buffer = bytearray(self.size)
        for name, value in values.items():
            if name not in self.fields:
                raise TypeError(f"{self.name} has no member {name}")
            field_ = self.fields[name]
            buffer[field_.offset : field_.offset + field_.size] = field_.type.encode(value)
        return bytes(buffer)

    def encode(self, value: Any) -> bytes:
        if isinstance(value, bytes | bytearray | memoryview):
            return _exactly(value, self)
        if isinstance(value, Mapping):
            return self.pack(**value)
        return self.pack(**dict(zip(self.fields, value, strict=True)))

    def unpack_array(self, data: Buffer, count: int, offset: int = 0) -> list[Any]:
        """`count` structures in a row, as a list of namedtuples."""
        decode, size = self._decoder(), self.size
        return [decode(data, offset + i * size) for i in range(count)]

    def _format(self) -> str:
        pieces, offset = [], 0
        for field in self.fields.values():
            if field.offset > offset:
                pieces.append(f"{field.offset - offset}x")
            pieces.append(field.type._format())
            offset = field.offset + field.size
        if self.size > offset:
            pieces.append(f"{self.size - offset}x")
        return "".join(pieces)

    def _count(self) -> int:
        return sum(field.type._count() for field in self.fields.values())

    def _tuple_class(self) -> type[tuple[Any, ...]]:
        if self._class is None:
            make: Any = namedtuple  # the names are only known at run time, which mypy cannot follow
            self._class = make(self.name.lstrip("_"), [name.lstrip("_") for name in self.fields])
        assert self._class is not None
        return self._class

    def _is_flat(self) -> bool:
        return self._flat

    def _expression(self, first: int, names: dict[str, Any]) -> str:
        label = f"c{len(names)}"
        names[label] = self._tuple_class()
        arguments = []
        for field in self.fields.values():
            arguments.append(field.type._expression(first, names))
            first += field.type._count()
        return f"{label}({', '.join(arguments)})"


class Union(_Members):
    """A C union: `Union(name, (variant, type), ...)`; all variants start at its first byte."""

    def __init__(self, name: str, *variants: tuple[str, Type], size: int = 0) -> None:
        """`size` is the least size in bytes, for unions that the header pads with a byte array."""
        self.name = name
        self.fields = {variant: Field(variant, type_, 0) for variant, type_ in variants}
        self.align = max((type_.align for _, type_ in variants), default=1)
        self.size = _align(max([size, *(type_.size for _, type_ in variants)]), self.align)

    def encode(self, value: Any) -> bytes:
        if isinstance(value, UnionValue):
            return _exactly(value.raw, self)
        if isinstance(value, Mapping):
            ((variant, inner),) = value.items()
            return self[variant].type.encode(inner).ljust(self.size, b"\0")
        return _exactly(value, self)

    def _format(self) -> str:
        return f"{self.size}s"

    def _count(self) -> int:
        return 1

    def _expression(self, first: int, names: dict[str, Any]) -> str:
        label = f"c{len(names)}"
        names[label] = self
        names["UnionValue"] = UnionValue
        return f"UnionValue({label}, t[{first}])"


class UnionValue:
    """A union's bytes (`raw`), decoded as the variant one asks for: `value.virq`."""

    __slots__ = ("_union", "raw")

    def __init__(self, union: Union, raw: bytes) -> None:
        self._union = union
        self.raw = raw

    def __getattr__(self, variant: str) -> Any:
        return self._union[variant].type.unpack(self.raw)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnionValue) and other._union is self._union and other.raw == self.raw

    def __hash__(self) -> int:
        return hash(self.raw)

    def __repr__(self) -> str:
        return f"<{self._union.name} {self.raw.hex()}>"


def number_names(namespace: Mapping[str, Any], prefix: str, *, keep: bool = True) -> dict[int, str]:
    """Number to name, for the integer constants in `namespace` (a module's globals) whose names start with `prefix`.

    `keep=False` drops the prefix from the names. The first name declared for a number wins.
    """
    found: dict[int, str] = {}
    for name, value in namespace.items():
        if name.startswith(prefix) and type(value) is int:
            found.setdefault(value, name if keep else name[len(prefix) :])
    return found


def walk(type_: Type, path: str = "", offset: int = 0) -> Iterator[tuple[str, Type, int]]:
    """Every member, at any depth: (C member designator, type, offset). Of an array's elements only the first."""
    if isinstance(type_, Struct | Union):
        for name, field in type_.fields.items():
            inner = f"{path}.{name}" if path else name
            yield inner, field.type, offset + field.offset
            yield from walk(field.type, inner, offset + field.offset)
    elif isinstance(type_, Array) and isinstance(type_.element, Struct | Union):
        yield from walk(type_.element, f"{path}[0]", offset)


def _align(offset: int, align: int) -> int:
    return (offset + align - 1) // align * align


def _is_bytes(type_: Type) -> bool:
    return isinstance(type_, Array) and type_._bytes


def _exactly(data: Buffer, type_: Type) -> bytes:
    if len(data) != type_.size:
        raise ValueError(f"{type_.name} has {type_.size} bytes, not {len(data)}")
    return bytes(data)
