"""The XenStore side of making and ending a domain: the nodes that libxl writes, with its permissions, in its order.

Facts: Xen 4.17's tools/libs/light (libxl__domain_make, libxl__build_post, libxl__device_console_add,
libxl__destroy_domid), docs/misc/xenstore-paths.
"""

from __future__ import annotations

from contextlib import suppress

from pyvmm.toolstack.build import CONSOLE_REF, Built, DomainConfig
from pyvmm.xenstore import Client, XsError

CONSOLE_LIMIT = 1 << 20  # LIBXL_XENCONSOLE_LIMIT: bytes a daemon may keep for a reader that is slow

# Below a domain's directory: what only dom0 may write and the domain may read, and what is the domain's own.
READ_ONLY = ("cpu", "memory", "device", "control")
OWN = (
    "device/suspend/event-channel",
    "control/shutdown",
    "control/feature-poweroff",
    "control/feature-reboot",
    "control/feature-suspend",
    "control/sysrq",
    "data",
    "drivers",
    "feature",
    "attr",
    "error",
)
PLATFORM_FEATURES = ("multiprocessor-suspend", "xs_reset_watches")


def _node(xs: Client, path: str, permissions: list[str]) -> None:
    xs.mkdir(path)
    xs.set_permissions(path, permissions)


def domain_path(domid: int) -> str:
    """The domain's own directory."""
    return f"/local/domain/{domid}"


def write_domain(xs: Client, config: DomainConfig, built: Built) -> None:
    """Everything the store holds of a new domain; to be followed by `introduce`."""
    domid = built.domid
    home, vm, private = domain_path(domid), f"/vm/{built.uuid}", f"/libxl/{domid}"
    reads, owns, none = ["n0", f"r{domid}"], [f"n{domid}"], ["n0"]

    def make(t: Client) -> None:
        for path, permissions in ((home, reads), (vm, reads), (private, none)):
            if t.exists(path):
                t.rm(path)
            _node(t, path, permissions)
        _node(t, f"{private}/device", none)
        t.write(f"{home}/vm", vm)
        t.write(f"{home}/name", config.name)
        for name in READ_ONLY:
            _node(t, f"{home}/{name}", reads)
        for name in OWN:
            _node(t, f"{home}/{name}", owns)
        t.write(f"{vm}/uuid", str(built.uuid))
        t.write(f"{vm}/name", config.name)
        for feature in PLATFORM_FEATURES:
            t.write(f"{home}/control/platform-feature-{feature}", "1")
        t.write(f"{private}/type", "pv")

    def fill(t: Client) -> None:
        size = built.memory // 1024
        entries = {
            "memory/static-max": str(size),
            "memory/target": str(size),
            "memory/videoram": "0",
            "domid": str(domid),
            "store/port": str(built.store_port),
            "store/ring-ref": str(built.store_mfn),
        }
        for i in range(built.vcpus):
            entries[f"cpu/{i}/availability"] = "online"
        for name, value in entries.items():
            t.write(f"{home}/{name}", value)
        t.write(f"{vm}/image/ostype", "linux")  # libxl's word for every PV kernel
        t.write(f"{vm}/image/kernel", config.image_path)
        if config.ramdisk:
            t.write(f"{vm}/image/ramdisk", config.ramdisk_path)
        if config.cmdline:
            t.write(f"{vm}/image/cmdline", config.cmdline)

    xs.transact(make)
    xs.transact(fill)


def write_console(xs: Client, built: Built) -> None:
    """The primary console's two directories. Its front end is not the guest's to write: it belongs to dom0."""
    domid = built.domid
    front, back = f"{domain_path(domid)}/console", f"{domain_path(0)}/backend/console/{domid}/0"

    def make(t: Client) -> None:
        _node(t, front, ["n0", f"r{domid}"])
        _node(t, back, ["n0", f"r{domid}"])
        entries = {
            f"{front}/backend": back,
            f"{front}/backend-id": "0",
            f"{front}/limit": str(CONSOLE_LIMIT),
            f"{front}/type": "xenconsoled",
            f"{front}/output": "pty",
            f"{front}/tty": "",
            f"{front}/port": str(built.console_port),
            f"{front}/ring-ref": str(built.console_mfn),
            f"{back}/frontend": front,
            f"{back}/frontend-id": str(domid),
            f"{back}/online": "1",
            f"{back}/state": "1",
            f"{back}/protocol": "vt100",
        }
        for path, value in entries.items():
            t.write(path, value)

    xs.transact(make)


def remove_domain(xs: Client, domid: int) -> None:
    """Remove what `write_domain` and `write_console` wrote."""
    vm = ""
    with suppress(XsError):
        vm = xs.read(f"{domain_path(domid)}/vm").decode()
    for path in (vm, domain_path(domid), f"{domain_path(0)}/backend/console/{domid}", f"/libxl/{domid}"):
        if path and xs.exists(path):
            xs.rm(path)


__all__ = ["CONSOLE_REF", "domain_path", "remove_domain", "write_console", "write_domain"]
