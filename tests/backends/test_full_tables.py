"""What a control domain whose tables are full cannot give costs nothing."""

from __future__ import annotations

import pytest

from pyvmm.errors import ConfigError
from pyvmm.host import Host
from pyvmm.toolstack.devices import Vif
from pyvmm.toolstack.libxc import HypercallError

MIB = 1 << 20


def test_a_control_page_without_a_grant_leaves_no_port() -> None:
    with Host(128 * MIB) as host:
        guest = host.create("noop", memory=8 * MIB, negotiation="noxs")
        host.run(5_000_000)
        resources = host.services.resources
        page = resources.page()
        with pytest.raises(HypercallError):
            while True:
                resources.grant(0, page)
        ports, pages = len(resources.api.v.domain.evtchn.ports), len(resources._free_pages)
        for _ in range(5):
            with pytest.raises(ConfigError, match="setup_table"):
                guest.attach(Vif(1, mac="00:16:3e:00:00:01"))
        assert (len(resources.api.v.domain.evtchn.ports), len(resources._free_pages)) == (ports, pages)
