"""Building a PV domU, hypercall by hypercall, in libxl's and libxc's order.

createdomain, vCPUs, memory limit, store and console ports, memory, contents through foreign mappings, page tables
pinned, grants of the two
rings, first vCPU's registers. The domain stays paused; what the XenStore must know of it is `xl.py`'s business.
"""

from __future__ import annotations

import os
import struct
import uuid
from dataclasses import dataclass

import numpy as np

from pyvmm.abi import grant_table as gnttab_abi
from pyvmm.abi import xen
from pyvmm.errors import ConfigError, ImageError, MemoryShortage
from pyvmm.hypervisor import pvlayout
from pyvmm.hypervisor.pvimage import read_image
from pyvmm.hypervisor.unpack import GZIP, decompress
from pyvmm.toolstack.devices import TEXT_MAX, Device
from pyvmm.toolstack.libxc import HypercallError, Libxc

PAGE = 4096
MIB = 1 << 20
SLACK_KIB = 1024  # LIBXL_MAXMEM_CONSTANT: what a domain may own above its size
MAGIC = b"xen-3.0-x86_64"
CONSOLE_REF: int = gnttab_abi.GNTTAB_RESERVED_CONSOLE
XENSTORE_REF: int = gnttab_abi.GNTTAB_RESERVED_XENSTORE
MAX_VCPUS = 128  # what a vcpu window, and xl, allow for a PV domain
SHARED_INFO_SIZE: int = xen.shared_info.size
LEGACY_VCPUS = 32


@dataclass(frozen=True)
class DomainConfig:
    """What is asked for. `memory` in bytes, a multiple of a page; `maxmem`: what it may ever grow to (None: the same);
    the domain has `maxvcpus` (None: as many as `vcpus`), of which `vcpus` are to be used at first; `image_path` and
    `ramdisk_path` are named in errors."""

    name: str
    image: bytes
    image_path: str = "image"
    memory: int = 32 * MIB
    vcpus: int = 1
    cmdline: str = ""
    ramdisk: bytes = b""
    ramdisk_path: str = "ramdisk"
    maxmem: int | None = None
    maxvcpus: int | None = None
    devices: tuple[Device, ...] = ()
    paused: bool = False

    @property
    def largest(self) -> int:
        """The memory that the domain's memory map shows, in bytes."""
        return self.memory if self.maxmem is None else self.maxmem

    @property
    def all_vcpus(self) -> int:
        """How many vCPUs the domain has, used at first or not."""
        return self.vcpus if self.maxvcpus is None else self.maxvcpus


@dataclass(frozen=True)
class Plan:
    """What the configuration and its files turned into: the layout, and the ramdisk unpacked."""

    config: DomainConfig
    layout: pvlayout.Layout
    module: bytes


@dataclass(frozen=True)
class Built:
    """A built, paused domain: what the toolstack has to tell others about it."""

    domid: int
    uuid: uuid.UUID
    memory: int
    vcpus: int
    store_mfn: int
    store_port: int
    console_mfn: int
    console_port: int


def check(config: DomainConfig) -> None:
    """`ConfigError` for sizes that no domain can have."""
    if not 1 <= config.vcpus <= MAX_VCPUS:
        raise ConfigError(f"{config.vcpus} vCPUs: a domain has 1 to {MAX_VCPUS}")
    if not config.vcpus <= config.all_vcpus <= MAX_VCPUS:
        raise ConfigError(f"at most {config.all_vcpus} vCPUs: a domain has those it begins with, and up to {MAX_VCPUS}")
    if config.memory < PAGE or config.memory % PAGE:
        raise ConfigError(f"{config.memory} bytes of memory: a domain has whole pages of {PAGE} bytes")
    if config.largest < config.memory or config.largest % PAGE:
        raise ConfigError(
            f"at most {config.largest} bytes of memory: a domain has whole pages and those it begins with"
        )
    if len(os.fsencode(config.cmdline)) >= xen.start_info.cmd_line.size:
        raise ConfigError(f"the command line is longer than {xen.start_info.cmd_line.size - 1} bytes", about="cmdline")
    for key, text in (("name", config.name), ("kernel", config.image_path), ("ramdisk", config.ramdisk_path)):
        if len(os.fsencode(text)) > TEXT_MAX:  # they are written to the store
            raise ConfigError(f"the {key} has more than {TEXT_MAX} bytes", about=key)


def unpack_ramdisk(config: DomainConfig) -> bytes:
    """A gzipped ramdisk is unpacked, as libxc does; one that only looks gzipped is taken as it is."""
    if config.ramdisk.startswith(GZIP):
        try:
            return decompress(config.ramdisk, config.ramdisk_path)
        except ImageError:
            return config.ramdisk
    return config.ramdisk


def prepare(config: DomainConfig) -> Plan:
    """Read the files and make the plan; no domain is touched. `ImageError`, `MemoryShortage`, `ConfigError`."""
    check(config)
    image = read_image(config.image, config.image_path)
    module = unpack_ramdisk(config)
    return Plan(config, pvlayout.domu_layout(image, config.memory // PAGE, len(module), config.image_path), module)


def build_domain(xc: Libxc, plan: Plan, identity: uuid.UUID) -> Built:
    """Build the domain; on any error it is destroyed again. `ImageError`, `MemoryShortage`."""
    config = plan.config
    try:
        domid = xc.create_domain(identity.bytes, vcpus=config.all_vcpus)
    except HypercallError as error:
        raise MemoryShortage(f"{config.name}: the host cannot take another domain ({error})") from None
    try:
        return _build(xc, plan, identity, domid)
    except HypercallError as error:
        xc.domctl("destroydomain", domid)
        if error.errno == 12:
            raise MemoryShortage(f"{config.name}: the host has no {config.memory // 1024} KiB left for it") from None
        raise ImageError(f"{config.image_path}: Xen refuses to build it ({error})") from None


def _build(xc: Libxc, plan: Plan, identity: uuid.UUID, domid: int) -> Built:
    config, layout = plan.config, plan.layout
    us = xc.api.domid
    image = layout.image
    xc.domctl("max_vcpus", domid, "max_vcpus", max=config.all_vcpus)
    xc.domctl("max_mem", domid, "max_mem", max_memkb=config.memory // 1024 + SLACK_KIB)
    store_port = xc.alloc_unbound(domid, us)
    console_port = xc.alloc_unbound(domid, us)
    xc.set_memory_map(domid, config.largest)
    xc.domctl("settscinfo", domid, "tsc_info", tsc_mode=0, gtsc_khz=0, incarnation=0, elapsed_nsec=0)
    xc.domctl("set_address_size", domid, "address_size", size=64)
    mfns = xc.populate(domid, layout.nr_pages)
    p2m = np.array(mfns, np.uint64)
    shared_info = xc.get_info(domid).shared_info_frame
    info = pvlayout.start_info(
        layout,
        magic=MAGIC,
        shared_info=shared_info * PAGE,
        cmdline=os.fsencode(config.cmdline),
        store=(mfns[layout.store_pfn], store_port),
        console=(mfns[layout.console_pfn], console_port),
    )
    made = pvlayout.contents(layout, p2m, info, plan.module)
    _write(xc, domid, layout, mfns, made)
    if image.hypercall_page is not None:
        xc.domctl(
            "hypercall_init", domid, "hypercall_init", gmfn=mfns[(image.hypercall_page - image.virt_base) // PAGE]
        )
    xc.pin_l4(domid, mfns[layout.l4_pfn])
    _seed_grants(xc, domid, mfns[layout.console_pfn], mfns[layout.store_pfn])
    _mask_upcalls(xc, domid, shared_info)
    context = pvlayout.boot_context(image.entry, layout.stack_top, layout.start_info_va, mfns[layout.l4_pfn])
    xc.set_boot_context(domid, context)
    return Built(
        domid=domid,
        uuid=identity,
        memory=config.memory,
        vcpus=config.all_vcpus,
        store_mfn=mfns[layout.store_pfn],
        store_port=store_port,
        console_mfn=mfns[layout.console_pfn],
        console_port=console_port,
    )


def _write(xc: Libxc, domid: int, layout: pvlayout.Layout, mfns: list[int], made: pvlayout.Contents) -> None:
    """Fill the frames that have contents; those of the initial area that have none are cleared without being
    mapped."""
    used = layout.stack_pfn + 1
    xc.clear_pages(domid, (mfns[pfn] for pfn in range(used) if pfn not in made.frames))
    for pfn, data in made.frames.items():
        with xc.mapped(domid, mfns[pfn]) as va:
            xc.api.write(va, bytes(data))


def _seed_grants(xc: Libxc, domid: int, console_mfn: int, store_mfn: int) -> None:
    """Grant both rings to us, in the guest's table, on its behalf."""
    with xc.mapped(domid, xc.grant_frame(domid)) as va:
        for ref, mfn in ((CONSOLE_REF, console_mfn), (XENSTORE_REF, store_mfn)):
            entry = gnttab_abi.grant_entry_v1.pack(flags=gnttab_abi.GTF_permit_access, domid=xc.api.domid, frame=mfn)
            xc.api.write(va + ref * len(entry), entry)


def _mask_upcalls(xc: Libxc, domid: int, shared_info: int) -> None:
    """The shared page begins empty, with upcalls masked on every vCPU that has its vcpu_info there."""
    page = bytearray(SHARED_INFO_SIZE)
    mask = xen.vcpu_info.evtchn_upcall_mask.offset
    for i in range(LEGACY_VCPUS):
        struct.pack_into("B", page, i * xen.vcpu_info.size + mask, 1)
    with xc.mapped(domid, shared_info) as va:
        # The wall clock, which the hypervisor wrote, stays.
        start, end = xen.shared_info.wc_version.offset, xen.shared_info.arch.offset
        page[start:end] = xc.api.read(va + start, end - start)
        xc.api.write(va, bytes(page))
