"""A vCPU's state while another one is current."""

from __future__ import annotations

from pyvmm.machine.cpu import SavedCpu


class Context:
    """The registers of one vCPU. Made by `Machine.new_context`, made current by `Machine.switch`."""

    __slots__ = ("cr3", "saved")

    def __init__(self, saved: SavedCpu) -> None:
        self.saved = saved
        self.cr3 = 0
