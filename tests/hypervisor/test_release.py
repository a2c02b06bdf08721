"""Real guests, ended at any moment: every reference is accounted for while they live, and every frame comes back."""

from __future__ import annotations

import pytest

from pyvmm.host import Host

from .pv_host import audit


@pytest.mark.parametrize("image", ["hello", "crash", "abicheck"])
def test_frames_come_back_whenever_a_guest_ends(image: str) -> None:
    with Host(memory=128 << 20) as host:
        frames = host.hypervisor.frames
        # The first domain makes the services start, which stay.
        host.create("hello", memory=16 << 20, name="first").destroy()
        free = frames.free_count
        for budget in (0, 7, 20_000, 77_777, 400_000, 1_500_000):
            guest = host.create(image, memory=32 << 20, name=f"after{budget}")
            mfns = frames.pages_of(guest.xen)
            if budget:
                host.run(max_instructions=budget)
            audit(host.hypervisor)
            guest.destroy()
            frames.check()
            assert frames.free_count == free, f"leaked after {budget} instructions"
            m2p = host.hypervisor.xen_area.m2p
            assert all(m2p(mfn) == (1 << 64) - 1 for mfn in mfns)
            assert not any(host.hypervisor.machine.ram.read(mfns[0] << 12, 4096))
