"""The hypervisor layer: Xen's view of domains, hypercalls, events, grants and PV memory.

It knows Xen (`pyvmm.abi`) and drives the CPU through `pyvmm.machine`; it knows nothing of services, files or people.
"""
