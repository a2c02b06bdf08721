"""Kernels that the C dom0 builds domains of, beside ours: what they say of themselves in other ways."""

from __future__ import annotations

import json

import pytest

from pyvmm.abi import elfnote
from tests.guests.dom0_rig import Dom0Rig
from tests.toolstack.elf_image import Elf, Load, u64

HANG = bytes.fromhex("b81d000000 bf01000000 0f05 ebf2")  # sched_op(block), for ever
BASE = 0xFFFFFFFF80000000
OLDER = b"GUEST_OS=old,XEN_VER=xen-3.0,VIRT_BASE=0xffffffff80000000,LOADER=generic,HYPERCALL_PAGE=0x2,PAE=yes"


def made(image: bytes, design: str = "chaos-noxs") -> tuple[str, str]:
    """What dom0 said when it made a guest of it, and the guest's line in the list."""
    config = json.dumps({"name": "guest", "kernel": "image", "memory": 8}).encode()
    with Dom0Rig(design, files={"image": image, "guest.json": config}) as dom0:
        said = dom0("create guest.json")
        lines = [line for line in dom0("list").splitlines() if "guest" in line]
        return said, lines[0] if lines else ""


def test_a_kernel_from_before_notes() -> None:
    """Its `__xen_guest` section says what notes would; the hypercall page is a page number there."""
    elf = Elf(loads=[Load(paddr=BASE + 0x1000, memsz=0x4000, data=HANG)], entry=BASE + 0x1000, notes_in="")
    elf.guest_string = OLDER
    said, line = made(elf.build())
    assert said.startswith("created guest") and "-b----" in line
    elf.guest_string = OLDER + b",ELF_PADDR_OFFSET=0"
    elf.loads = [Load(paddr=0x1000, memsz=0x4000, data=HANG)]
    said, line = made(elf.build())
    assert said.startswith("created guest") and "-b----" in line


@pytest.mark.parametrize(
    "text", [b"", b"XEN_VER", b"XEN_VERS=xen-3.0", b"VIRT_BASE=0x1000", b"=,=,,=" * 50, b"XEN_VER=" + b"9" * 5000]
)
def test_strings_that_say_little(text: bytes) -> None:
    """No kernel, or one that asks for nothing: never a crash of dom0."""
    elf = Elf(loads=[Load(data=HANG)], notes_in="")
    elf.guest_string = text
    said, _ = made(elf.build())
    assert said.startswith("created guest" if text.startswith(b"XEN_VER=") else "error: guest: is no Xen PV kernel")


BEYOND = [Load(paddr=0), Load(paddr=2**64 - 2048, data=b"beyond", memsz=2047)]


@pytest.mark.parametrize(
    ("base", "loads", "error"),
    [
        (0, BEYOND, "the kernel does not fit into the domain's memory (ENOMEM)"),
        (2**64 - 0x2000, [Load(paddr=0)], "the kernel lies where there are no addresses left"),
        (2**64 - 0x400000, [Load(paddr=0)], "the kernel lies where there are no addresses left"),
    ],
)
def test_kernels_at_the_end_of_all_addresses(base: int, loads: list[Load], error: str) -> None:
    """Sizes and addresses that wrap around are an error of that kernel: dom0 neither crashes nor looks for ever."""
    elf = Elf(loads=loads, entry=base)
    elf.with_notes({elfnote.XEN_ELFNOTE_VIRT_BASE: u64(base), elfnote.XEN_ELFNOTE_PADDR_OFFSET: u64(0)})
    said, line = made(elf.build())
    assert said.startswith(f"error: guest: {error}") and not line


def test_shutdown_of_a_guest_that_ended_with_its_sysctl_device_open() -> None:
    config = json.dumps({"name": "guest", "kernel": "daytime", "memory": 8, "vifs": [{}]}).encode()
    with Dom0Rig("chaos-noxs", files={"guest.json": config}, guests=["daytime"]) as dom0:
        assert dom0("create guest.json").startswith("created guest")
        hv = dom0.host.hypervisor
        hv.shutdown(next(domain for domain in hv.domains.values() if domain.domid), 3)
        dom0.settle()
        assert dom0("shutdown guest").startswith("error: guest")
        assert dom0("list")  # the shell goes on
