"""Asking a guest to stop: over noxs by a pseudo-device, over the XenStore by a node."""

from __future__ import annotations

import pytest

from pyvmm.abi import devctl as abi
from pyvmm.backends import sysctl_noxs, sysctl_xenstore
from pyvmm.backends.sysctl import REASONS, Sysctl
from pyvmm.backends.sysctl_noxs import SYSCTL
from pyvmm.host import Host
from pyvmm.toolstack.devices import Vif
from pyvmm.xenbus.backend import DeviceError
from pyvmm.xenbus.devices import Key
from pyvmm.xenbus.noxs import PageFront
from pyvmm.xenbus.states import State
from tests.xenbus.rig import Rig
from tests.xenbus.test_states import NoRing

COMMAND = abi.sysctl_ctrl_page.command.offset


def device(rig: Rig) -> Sysctl:
    path = rig.over_page.devices[Key("sysctl", 1, 0)].path
    assert isinstance(path, Sysctl)
    return path


@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize("early", [False, True])
def test_a_command_over_noxs(reason: str, early: bool) -> None:
    """The bit is set, an event comes, the guest closes the device, opens it again; a command is told once. One that is
    given before the guest listens is told when it does."""
    rig = Rig(SYSCTL)
    _ = rig.page
    before = rig.held()
    sysctl_noxs.create(rig.over_page, 1)
    if early:
        sysctl_noxs.ask(rig.over_page, 1, reason)
    front = rig.page_front(SYSCTL, 0, NoRing())
    rig.settle()
    assert rig.states(front) == (State.CONNECTED, State.CONNECTED)
    assert device(rig).understands == {"poweroff": 1, "reboot": 0, "suspend": 0, "platform_multiprocessor_suspend": 0}
    assert isinstance(front.channel, PageFront)
    if not early:
        assert front.channel.page.read(COMMAND, 1) == b"\0"
        front.channel.other()  # arms
        sysctl_noxs.ask(rig.over_page, 1, reason)
        rig.guest.take_events()
        assert rig.guest.api.take_fired(front.channel.port)
    assert front.channel.page.read(COMMAND, 1)[0] == getattr(abi, f"SYSCTL_CMD_{reason}")
    assert front.channel.hear() == {name: int(name == reason) for name in REASONS}
    front.close()
    rig.settle()
    assert device(rig).acknowledged == [reason]
    front.open()
    rig.settle()
    assert rig.states(front) == (State.CONNECTED, State.CONNECTED)
    assert front.channel.page.read(COMMAND, 1) == b"\0"
    rig.over_page.destroy("sysctl", 1, 0)
    rig.settle()
    assert front.state is State.CLOSED  # a device that is no longer listed has no back end
    front.channel.release()
    rig.fronts.clear()
    assert rig.held() == before


def test_a_guest_without_the_device() -> None:
    rig = Rig(SYSCTL)
    with pytest.raises(DeviceError, match="no sysctl"):
        sysctl_noxs.ask(rig.over_page, 1, "poweroff")


def test_a_command_over_the_store() -> None:
    rig = Rig()
    rig.tools.mkdir("/local/domain/1/control/shutdown")
    rig.tools.set_permissions("/local/domain/1/control/shutdown", ["n1"])
    watch = sysctl_xenstore.ShutdownWatch(rig.client, 1)
    assert watch.take() is None
    rig.client.events()
    sysctl_xenstore.ask(rig.tools, 1, "reboot")
    assert not sysctl_xenstore.acknowledged(rig.tools, 1)
    assert [event.token for event in rig.client.events()] == ["shutdown"]
    assert watch.take() == "reboot" and watch.take() is None
    assert sysctl_xenstore.acknowledged(rig.tools, 1)


@pytest.mark.parametrize("negotiation", ["xenstore", "noxs"])
@pytest.mark.parametrize("reason", ["poweroff", "reboot"])
def test_a_guest_of_x86_code_is_asked(negotiation: str, reason: str) -> None:
    """`daytime` waits for queries; it ends as it was asked, and says so."""
    with Host(128 << 20) as host:
        way = {"xenstore": "net=xs", "noxs": "net=noxs"}[negotiation]
        guest = host.create(
            "daytime", memory=16 << 20, cmdline=f"{way} ip=10.0.0.2/24", negotiation=negotiation, vifs=[Vif(0)]
        )
        host.run(50_000_000)
        assert "daytime: ready" in guest.console.text and guest.exit is None
        guest.shutdown(reason)
        assert host.run(50_000_000).exit == reason
        assert f"sysctl: {reason}" in guest.console.text
        assert host.services.reports == []


@pytest.mark.parametrize("negotiation", ["xenstore", "noxs"])
@pytest.mark.parametrize("force", [False, True])
def test_a_running_guest_loses_its_device(negotiation: str, force: bool) -> None:
    """Hot-remove: the guest's front end closes, the back end goes, and the guest runs on. By force, the guest need not
    do anything."""
    with Host(128 << 20) as host:
        way = {"xenstore": "net=xs", "noxs": "net=noxs"}[negotiation]
        vif = Vif(0)
        guest = host.create(
            "daytime", memory=16 << 20, cmdline=f"{way} ip=10.0.0.2/24", negotiation=negotiation, vifs=[vif]
        )
        host.run(50_000_000)
        services, key = host.services, Key("vif", guest.domid, 0)
        assert key in services.store_backends.devices or key in services.page_backends.devices
        guest.detach(vif, force=force)
        if not force:
            host.run(50_000_000)
        assert key not in services.store_backends.devices and key not in services.page_backends.devices
        host.run(50_000_000)
        assert services.reports == [] and guest.crash_report is None
        guest.destroy()
        services.resources.collect()
        assert services.resources.lingering == []
