"""Imports every module that registers hypercalls, so that the table is complete. Nothing else."""

from pyvmm.hypervisor import (  # noqa: F401
    callbacks,
    console_io,
    debugreg,
    descriptors,
    devctl,
    domctl,
    event_channel,
    grant_op,
    iret,
    memory,
    misc,
    mmu_ops,
    multicall,
    physdev,
    sched,
    sysctl,
    time,
    vcpu_op,
    version,
    vm_assist,
)
