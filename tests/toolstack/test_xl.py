"""The XenStore of a fresh domU is the one that `xl create` of Xen 4.17 makes."""

from __future__ import annotations

import re

from pyvmm.host import Host

# What a real xenstored had of a guest of 128 MiB, console attached, from the trace of its requests. Path,
# permissions, value; "*": differs
# from host to host.
REAL = """
/libxl/1                                                        n0
/libxl/1/device                                                 n0
/libxl/1/device/console                                         n0
/libxl/1/device/console/0                                       n0
/libxl/1/device/console/0/backend                               n0     /local/domain/0/backend/console/1/0
/libxl/1/device/console/0/frontend                              n0     /local/domain/1/console
/libxl/1/device/console/0/frontend-id                           n0     1
/libxl/1/device/console/0/online                                n0     1
/libxl/1/device/console/0/protocol                              n0     vt100
/libxl/1/device/console/0/state                                 n0     1
/libxl/1/dm-version                                             n0     qemu_xen
/libxl/1/type                                                   n0     pv
/local/domain/0/backend                                         n0
/local/domain/0/backend/console                                 n0
/local/domain/0/backend/console/1                               n0
/local/domain/0/backend/console/1/0                             n0,r1
/local/domain/0/backend/console/1/0/frontend                    n0,r1  /local/domain/1/console
/local/domain/0/backend/console/1/0/frontend-id                 n0,r1  1
/local/domain/0/backend/console/1/0/online                      n0,r1  1
/local/domain/0/backend/console/1/0/protocol                    n0,r1  vt100
/local/domain/0/backend/console/1/0/state                       n0,r1  1
/local/domain/1                                                 n0,r1
/local/domain/1/attr                                            n1
/local/domain/1/console                                         n0,r1
/local/domain/1/console/backend                                 n0,r1  /local/domain/0/backend/console/1/0
/local/domain/1/console/backend-id                              n1,r0  0
/local/domain/1/console/limit                                   n0,r1  1048576
/local/domain/1/console/output                                  n0,r1  pty
/local/domain/1/console/port                                    n0,r1  2
/local/domain/1/console/ring-ref                                n0,r1  *
/local/domain/1/console/tty                                     n0,r1  *
/local/domain/1/console/type                                    n0,r1  xenconsoled
/local/domain/1/control                                         n0,r1
/local/domain/1/control/feature-poweroff                        n1
/local/domain/1/control/feature-reboot                          n1
/local/domain/1/control/feature-suspend                         n1
/local/domain/1/control/platform-feature-multiprocessor-suspend n0,r1  1
/local/domain/1/control/platform-feature-xs_reset_watches       n0,r1  1
/local/domain/1/control/shutdown                                n1
/local/domain/1/control/sysrq                                   n1
/local/domain/1/cpu                                             n0,r1
/local/domain/1/cpu/0                                           n0,r1
/local/domain/1/cpu/0/availability                              n0,r1  online
/local/domain/1/data                                            n1
/local/domain/1/device                                          n0,r1
/local/domain/1/device/suspend                                  n0,r1
/local/domain/1/device/suspend/event-channel                    n1
/local/domain/1/domid                                           n0,r1  1
/local/domain/1/drivers                                         n1
/local/domain/1/error                                           n1
/local/domain/1/feature                                         n1
/local/domain/1/memory                                          n0,r1
/local/domain/1/memory/static-max                               n0,r1  131072
/local/domain/1/memory/target                                   n0,r1  131072
/local/domain/1/memory/videoram                                 n0,r1  0
/local/domain/1/name                                            n0,r1  hello
/local/domain/1/store                                           n0,r1
/local/domain/1/store/port                                      n0,r1  1
/local/domain/1/store/ring-ref                                  n0,r1  *
/local/domain/1/vm                                              n0,r1  /vm/UUID
/vm/UUID                                                        n0,r1
/vm/UUID/image                                                  n0,r1
/vm/UUID/image/kernel                                           n0,r1  *
/vm/UUID/image/ostype                                           n0,r1  linux
/vm/UUID/name                                                   n0,r1  hello
/vm/UUID/start_time                                             n0,r1  *
/vm/UUID/uuid                                                   n0,r1  UUID
"""
# What is there without any domU.
HOST = r"/|/tool.*|/local|/local/domain|/local/domain/0|/local/domain/0/(domid|name)|/libxl|/vm"


def test_the_tree_of_a_new_domain() -> None:
    with Host(256 << 20) as host:
        guest = host.create("hello", memory=128 << 20)
        vm = host.xenstore.read(f"/local/domain/{guest.domid}/vm").decode().removeprefix("/vm/")
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", vm)
        found = {}
        for path, (value, _) in host.services.xenstored.store.nodes().items():
            if not re.fullmatch(HOST, path):
                permissions = ",".join(host.xenstore.get_permissions(path))
                found[path.replace(vm, "UUID")] = (permissions, value.decode().replace(vm, "UUID"))
    wanted = {}
    for line in REAL.strip().splitlines():
        path, permissions, *rest = line.split()
        wanted[path] = (permissions, rest[0] if rest else "")
    assert sorted(found) == sorted(wanted)
    for path, (access, text) in wanted.items():
        assert found[path][0] == access, path
        assert text in ("*", found[path][1]), path


def test_nothing_is_left_of_it() -> None:
    with Host(256 << 20) as host:
        host.create("hello", memory=16 << 20).destroy()
        left = [path for path in host.services.xenstored.store.nodes() if not re.fullmatch(HOST, path)]
        assert left == []
