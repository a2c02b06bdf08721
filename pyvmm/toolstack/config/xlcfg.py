"""xl's configuration files: what xl.cfg(5) of Xen 4.17 says of a PV guest, as a `GuestConfig`.

What xl knows and this host has no use for is a warning, as is a key that xl does not know either; what would make
another guest of it (another type, a boot loader instead of a kernel) is an error.
"""

from __future__ import annotations

import uuid

from pyvmm.errors import ConfigError, cut
from pyvmm.toolstack.devices import Device

from . import xlsyntax
from .guest import DEFAULT_MEMORY, MIB, Action, Actions, GuestConfig, Loaded
from .settings import Settings, Value
from .specs import parse_disk, parse_vif

MAX_VCPUS = 128
MAX_MIB = 1 << 24
ACTIONS = {  # xl's word: (what is done here, what is not)
    "destroy": (Action.DESTROY, ""),
    "restart": (Action.RESTART, ""),
    "preserve": (Action.PRESERVE, ""),
    "coredump-destroy": (Action.DESTROY, "no core is dumped"),
    "coredump-restart": (Action.RESTART, "no core is dumped"),
}
# Keys of xl.cfg(5) for PV guests that change nothing here.
WITHOUT_EFFECT = frozenset(
    """
    blkdev_start builder cap channel claim_mode console cpu_weight cpuid cpus cpus_soft dev_disable device_model_args
    device_model_version dm_restrict driver_domain e820_host extra_pv iomem ioports irqs init_seclabel localtime
    max_event_channels max_grant_frames max_grant_version max_maptrack_frames msr_relaxed nestedhvm nodes nomigrate
    on_soft_reset p9 pci pci_msitranslate pci_permissive pci_power_mgmt pci_seize pool pvcalls rdm rtc_timeoffset
    sched seclabel timer_mode tsc_mode usbctrl usbdev vdispl vfb vga video vkb vmtrace_buf_kb vnc vnuma vpmu vsnd vtpm
    xend_suspend_evtchn_compat sdl nographic keymap vif_default_script passthrough suppress_spurious_page_faults
    """.split()
)


def read(text: str, file: str) -> Loaded:
    """The guest of a file with this text; `file` names it in messages. `ConfigError`."""
    values, last_line = xlsyntax.parse(text, file)
    settings = Settings(file, values, last_line)
    _check_type(settings)
    name = settings.text("name", 'name = "NAME"')
    if not name or "/" in name or not name.isprintable():
        raise settings.error("name", 'name = "NAME", without a slash')
    kernel = settings.text("kernel", 'kernel = "FILE"')
    if not kernel:
        settings.get("bootloader")
        raise settings.error("kernel", 'kernel = "FILE": this host starts kernels, not boot loaders')
    memory, maxmem = _memory(settings)
    vcpus, maxvcpus = _vcpus(settings)
    devices = _devices(settings)
    lines = {key: value.line for key, value in values.items()}
    if "cmdline" not in lines and (parts := lines.keys() & {"extra", "root"}):
        lines["cmdline"] = max(lines[key] for key in parts)
    lines |= {device.label: line for device, line in devices}
    guest = GuestConfig(
        name=name,
        kernel=kernel,
        ramdisk=settings.text("ramdisk") or None,
        memory=memory,
        maxmem=maxmem,
        vcpus=vcpus,
        maxvcpus=maxvcpus,
        cmdline=_cmdline(settings),
        uuid=_uuid(settings),
        actions=_actions(settings),
        devices=tuple(device for device, _ in devices),
        source=file,
        lines=lines,
    )
    settings.finish(WITHOUT_EFFECT)
    return Loaded(guest, settings.noted())


def _check_type(settings: Settings) -> None:
    if settings.choice("type", ("pv", "pvh", "hvm")) in ("pvh", "hvm"):
        raise settings.error("type", '"pv": this host has no other guests')
    if settings.text("builder") not in (None, "generic", "linux"):
        raise settings.error("builder", '"generic": this host has PV guests only')


def _memory(settings: Settings) -> tuple[int, int]:
    memory = settings.number("memory", 1, MAX_MIB, " of MiB")
    maxmem = settings.number("maxmem", 1, MAX_MIB, " of MiB")
    if memory is not None and maxmem is not None and maxmem < memory:
        raise settings.error("maxmem", f"at least the {memory} of memory")
    default = DEFAULT_MEMORY // MIB
    memory = memory or maxmem or default
    return memory * MIB, (maxmem or memory) * MIB


def _vcpus(settings: Settings) -> tuple[int, int]:
    vcpus = settings.number("vcpus", 1, MAX_VCPUS)
    maxvcpus = settings.number("maxvcpus", 1, MAX_VCPUS)
    if vcpus is not None and maxvcpus is not None and maxvcpus < vcpus:
        raise settings.error("maxvcpus", f"at least the {vcpus} of vcpus")
    vcpus = vcpus or maxvcpus or 1
    return vcpus, maxvcpus or vcpus


def _cmdline(settings: Settings) -> str:
    cmdline, root, extra = settings.text("cmdline"), settings.text("root"), settings.text("extra")
    if cmdline is None:
        return " ".join(part for part in (f"root={root}" if root else "", extra or "") if part)
    for key, value in (("root", root), ("extra", extra)):
        if value is not None:
            settings.warn(key, "is ignored, as there is a cmdline")
    return cmdline


def _uuid(settings: Settings) -> uuid.UUID | None:
    text = settings.text("uuid")
    if text is None:
        return None
    try:
        return uuid.UUID(text)
    except ValueError:
        raise settings.error("uuid", "a UUID like 7c2f9a4e-5b0d-4d52-9a41-5f0c6d1f7a10") from None


def _actions(settings: Settings) -> Actions:
    default = Actions()
    found: dict[str, Action] = {}
    for how in ("poweroff", "reboot", "crash", "watchdog"):
        key = f"on_{how}"
        word = settings.text(key)
        if word is None:
            found[how] = getattr(default, how)
            continue
        if word not in ACTIONS:
            raise settings.error(key, "destroy, restart or preserve")
        found[how], less = ACTIONS[word]
        if less:
            settings.warn(key, f"{less}; {found[how].value} is done")
    return Actions(**found)


def _devices(settings: Settings) -> list[tuple[Device, int]]:
    """Devices, and the line of each."""
    found: list[tuple[Device, int]] = []
    for value in settings.list("disk", "a list of strings like '/path/to/image,raw,xvda,rw'"):
        found.append((_spec(settings, "disk", value, found, 0), value.line))
    for index, value in enumerate(settings.list("vif", "a list of strings like 'mac=00:16:3e:00:00:01'")):
        found.append((_spec(settings, "vif", value, found, index), value.line))
    return found


def _spec(settings: Settings, key: str, value: Value, before: list[tuple[Device, int]], index: int) -> Device:
    if not isinstance(value.data, str):
        raise settings.error(key, "a string in the list", value)
    try:
        device: Device = parse_disk(value.data) if key == "disk" else parse_vif(value.data, index)
    except ValueError as error:
        raise ConfigError(f'{settings.file}:{value.line}: {key} "{cut(value.data)}": expected {error}') from None
    if any(other.kind == device.kind and other.devid == device.devid for other, _ in before):
        raise ConfigError(f'{settings.file}:{value.line}: {key} "{cut(value.data)}": expected a number of its own')
    return device
