"""The design of stock Xen: everything is done at `create`, and everybody learns of a domain from the XenStore.

The nodes are those that libxl writes, with its permissions, in its order; each kind of device is a table in
`xl_devices.py`. Facts: Xen 4.17's tools/libs/light (libxl__domain_make, libxl__build_post, libxl__device_console_add,
libxl__destroy_domid, libxl_domain_shutdown), docs/misc/xenstore-paths.
"""

from __future__ import annotations

import os
import re
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pyvmm.abi import domctl, sched, xen
from pyvmm.errors import ConfigError, cut
from pyvmm.toolstack.build import PAGE, Built, DomainConfig, Plan, build_domain, prepare
from pyvmm.toolstack.design import Daemons, Listed
from pyvmm.toolstack.devices import Device
from pyvmm.toolstack.libxc import HypercallError, Libxc
from pyvmm.toolstack.xl_devices import children, nodes_of, remove_devices, write_device
from pyvmm.xenstore import Client, XsError, domids_of

if TYPE_CHECKING:
    from pyvmm.backends.console import Console

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
VM = re.compile(r"/vm/[0-9a-f-]{36}")
SHUTDOWN_REASONS = ("poweroff", "reboot", "halt")
STATES = (  # xl list's letters
    (domctl.XEN_DOMINF_running, "r"),
    (domctl.XEN_DOMINF_blocked, "b"),
    (domctl.XEN_DOMINF_paused, "p"),
    (domctl.XEN_DOMINF_shutdown, "s"),
)


class Xl:
    """See `design.Design`. A back end that has started adds its kind to `device_kinds`; it hears of its devices by
    watching its directory in the store."""

    name = "xl"

    def __init__(self, xc: Libxc, xs: Client, daemons: Daemons) -> None:
        self.xc = xc
        self.xs = xs
        self.daemons = daemons
        self.device_kinds: set[str] = set()

    def prepare(self, config: DomainConfig) -> Plan:
        """See `Design.prepare`."""
        return prepare(config)

    def create(self, plan: Plan, identity: uuid.UUID) -> Built:
        """See `Design.create`. Devices whose kind has no back end here are left out."""
        config = plan.config
        devices = [(d, self._backend_of(d)) for d in config.devices if d.kind in self.device_kinds]
        built = build_domain(self.xc, plan, identity)
        write_domain(self.xs, config, built, self.xc.wallclock())
        self.xs.introduce(built.domid, built.store_mfn, built.store_port)
        write_console(self.xs, built)
        for device, backend_domid in devices:
            write_device(self.xs, nodes_of(device, built, backend_domid))
        if not config.paused:
            self.xc.domctl("unpausedomain", built.domid)
        self.daemons.changed()
        return built

    def _backend_of(self, device: Device) -> int:
        """The domain that is to serve a device: its number, or its name's."""
        backend = device.backend
        if backend.isascii() and backend.isdigit() and len(backend) < 6 and int(backend) < xen.DOMID_FIRST_RESERVED:
            with suppress(HypercallError):
                self.xc.get_info(int(backend))
                return int(backend)
        for domid in domids_of(children(self.xs, "/local/domain")):
            with suppress(XsError):
                if self.xs.read(f"{domain_path(domid)}/name") == os.fsencode(backend):
                    return domid
        raise ConfigError(
            f"{device.label}: expected a domain that can serve it, there is no {cut(backend)}", about=device.label
        )

    def destroy(self, domid: int) -> None:
        """See `Design.destroy`."""
        self.xc.domctl("pausedomain", domid)
        remove_domain(self.xs, domid)
        with suppress(XsError):  # somebody has told the store before
            self.xs.release(domid)
        self.daemons.released()
        self.xc.domctl("destroydomain", domid)
        self.daemons.changed()

    def list(self) -> list[Listed]:
        """See `Design.list`."""
        found: list[Listed] = []
        domid = 0
        while True:
            try:
                answer = self.xc.domctl("getdomaininfo", domid)  # of this domain, or of the next one that there is
            except HypercallError:
                return found
            found.append(self._listed(answer.domain, answer.u.getdomaininfo))
            domid = answer.domain + 1

    def _listed(self, domid: int, info: Any) -> Listed:
        flags: int = info.flags
        reason = flags >> domctl.XEN_DOMINF_shutdownshift & domctl.XEN_DOMINF_shutdownmask
        crashed = flags & domctl.XEN_DOMINF_shutdown and reason == sched.SHUTDOWN_crash
        state = "".join(letter if flags & flag else "-" for flag, letter in STATES)
        state += ("c" if crashed else "-") + ("d" if flags & domctl.XEN_DOMINF_dying else "-")
        name = ""
        with suppress(XsError):
            name = self.xs.read(f"{domain_path(domid)}/name").decode(errors="replace")
        return Listed(
            domid=domid,
            name=name,
            uuid=uuid.UUID(bytes=bytes(info.handle)),
            memory=info.tot_pages * PAGE,
            vcpus=info.nr_online_vcpus,
            state=state,
        )

    def console(self, domid: int) -> Console:
        """See `Design.console`."""
        return self.daemons.console(domid)

    def shutdown(self, domid: int, reason: str = "poweroff") -> None:
        """See `Design.shutdown`."""
        if reason not in SHUTDOWN_REASONS:
            raise ConfigError(f"a guest is asked to {', '.join(SHUTDOWN_REASONS)}, not to {reason}")
        self.xs.write(f"{domain_path(domid)}/control/shutdown", reason)
        self.daemons.changed()


def _node(xs: Client, path: str, permissions: list[str]) -> None:
    xs.mkdir(path)
    xs.set_permissions(path, permissions)


def domain_path(domid: int) -> str:
    """The domain's own directory."""
    return f"/local/domain/{domid}"


def write_domain(xs: Client, config: DomainConfig, built: Built, now: tuple[int, int]) -> None:
    """What the store holds of a new domain before it is introduced. `now`: the wall clock's seconds and nanoseconds."""
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
        t.write(f"{private}/dm-version", "qemu_xen")

    def fill(t: Client) -> None:
        entries = {
            "memory/static-max": str(config.largest // 1024),
            "memory/target": str(built.memory // 1024),
            "memory/videoram": "0",
            "domid": str(domid),
            "store/port": str(built.store_port),
            "store/ring-ref": str(built.store_mfn),
        }
        for i in range(built.vcpus):
            entries[f"cpu/{i}/availability"] = "online" if i < config.vcpus else "offline"
        for name, value in entries.items():
            t.write(f"{home}/{name}", value)
        t.write(f"{vm}/image/ostype", "linux")  # libxl's word for every PV kernel
        t.write(f"{vm}/image/kernel", config.image_path)
        if config.ramdisk:
            t.write(f"{vm}/image/ramdisk", config.ramdisk_path)
        if config.cmdline:
            t.write(f"{vm}/image/cmdline", config.cmdline)
        seconds, nanoseconds = now
        t.write(f"{vm}/start_time", f"{seconds}.{nanoseconds // 10_000_000:02}")

    xs.transact(make)
    xs.transact(fill)


def write_console(xs: Client, built: Built) -> None:
    """The primary console's directories, written once the domain is introduced. The front end is dom0's to write."""
    domid = built.domid
    front, back = f"{domain_path(domid)}/console", f"{domain_path(0)}/backend/console/{domid}/0"
    private = f"/libxl/{domid}/device/console/0"
    about = {"frontend-id": str(domid), "online": "1", "state": "1", "protocol": "vt100"}

    def make(t: Client) -> None:
        t.write(f"{private}/frontend", front)
        t.write(f"{private}/backend", back)
        _node(t, front, ["n0", f"r{domid}"])
        t.write(f"{front}/backend", back)
        t.write(f"{front}/backend-id", "0")
        t.set_permissions(f"{front}/backend-id", [f"n{domid}", "r0"])
        entries = {
            "limit": str(CONSOLE_LIMIT),
            "type": "xenconsoled",
            "output": "pty",
            "tty": "",
            "port": str(built.console_port),
            "ring-ref": str(built.console_mfn),
        }
        for name, value in entries.items():
            t.write(f"{front}/{name}", value)
        _node(t, back, ["n0", f"r{domid}"])
        t.write(f"{back}/frontend", front)
        for name, value in about.items():
            t.write(f"{back}/{name}", value)
            t.write(f"{private}/{name}", value)

    xs.transact(make)


def remove_domain(xs: Client, domid: int) -> None:
    """Remove what `write_domain`, `write_console` and `write_device` wrote. Others may have changed any of it since."""
    vm = ""
    with suppress(XsError):
        vm = xs.read(f"{domain_path(domid)}/vm").decode("latin-1")
    remove_devices(xs, domid)
    backends = f"{domain_path(0)}/backend"
    for path in (f"{backends}/console/{domid}", vm, domain_path(domid), f"/libxl/{domid}"):
        if path == vm and not VM.fullmatch(path):
            continue  # what the domain's node names is not its own
        with suppress(XsError):
            if xs.exists(path):
                xs.rm(path)
    for path in (f"{backends}/console", backends):  # directories that the last one leaves empty
        with suppress(XsError):
            if xs.exists(path) and not xs.ls(path):
                xs.rm(path)


__all__ = ["Xl", "domain_path", "remove_domain", "write_console", "write_domain"]
