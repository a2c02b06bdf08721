"""noxs: no package has its headers. These are the numbers of its authors' headers, as gcc on x86-64 lays them out."""

import pytest

from pyvmm.abi import devctl
from pyvmm.abi.layout import Field, Struct

SIZES = {
    "dev_key": 12,
    "dev_comm": 8,
    "dev_page_entry": 20,
    "dev_page": 648,
    "xen_devctl": 664,
    "ctrl_hdr": 20,
    "sysctl_ctrl_page": 24,
    "vif_ctrl_page": 96,
    "vbd_ctrl_page": 176,
    "noxs_cfg_vif": 28,
    "noxs_cfg_vbd": 16,
}

# structure: member path, offset, size.
PLACES = """
dev_key: type 0 4, be_id 4 2, fe_id 6 2, devid 8 4
dev_page_entry: type 0 4, id 4 4, be_id 8 2, comm.grant 12 4, comm.evtchn 16 4
dev_page: version 0 4, dev_count 4 4, devs 8 640
xen_devctl: version 0 4, cmd 4 4, domain 8 2, u 16 648, u.get.mfn 16 8, u.dev_add.dev 16 20, u.dev_rem.key 16 12
xen_devctl: u.dev_rem.key.be_id 20 2, u.dev_rem.key.fe_id 22 2, u.dev_rem.key.devid 24 4
xen_devctl: u.dev_enum.dev_count 16 4, u.dev_enum.devs 20 640
ctrl_hdr: devid 0 4, be_state 4 4, fe_state 8 4, fe_watch_state 12 4, be_watch_state 16 4
sysctl_ctrl_page: hdr 0 20, fe_feat 20 1, command 21 1
vif_ctrl_page: hdr 0 20, vifid 20 4, be_feat 24 2, multi_queue_max_queues 28 4, multi_queue_num_queues 32 4
vif_ctrl_page: tx_ring_ref 36 4, rx_ring_ref 40 4, event_channel_tx 44 4, event_channel_rx 48 4, request_rx_copy 52 4
vif_ctrl_page: fe_feat 56 2, ctrl_ring_ref 60 4, event_channel_ctrl 64 4, mac 68 6, ip 76 4, bridge 80 16
vbd_ctrl_page: max_indirect_segments 20 2, be_flags 22 1, major 24 4, minor 28 4, type 32 4, mode 36 4, info 40 4
vbd_ctrl_page: sectors 48 8, sector_size 56 8, sector_size_physical 64 8, discard_enable 72 4, discard_granularity 76 4
vbd_ctrl_page: discard_alignment 80 4, discard_secure 84 4, fe_feat 88 1, protocol 89 64, max_rings 156 4
vbd_ctrl_page: max_ring_page_order 160 4, num_rings 164 4, ring_page_order 168 4
noxs_cfg_vif: mac 0 6, ip 8 4, bridge 12 16
"""


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name: str) -> None:
    assert getattr(devctl, name).size == SIZES[name]


def test_every_structure_is_listed() -> None:
    assert {name for name, value in vars(devctl).items() if isinstance(value, Struct)} == SIZES.keys()


@pytest.mark.parametrize("line", PLACES.strip().splitlines())
def test_places(line: str) -> None:
    name, places = line.split(": ")
    for place in places.split(", "):
        path, offset, size = place.split()
        field: Struct | Field = getattr(devctl, name)
        for part in path.split("."):
            field = field[part]
        assert isinstance(field, Field)
        assert (field.offset, field.size) == (int(offset), int(size))


def test_rings_follow_the_page() -> None:
    page = devctl.vbd_ctrl_page
    assert devctl.vbd_ctrl_page_rings_offset == page.ring_page_order.offset + page.ring_page_order.size
