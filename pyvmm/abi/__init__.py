"""The public interface of Xen 4.17 for x86-64 PV guests: numbers and structures, nothing else.

One module a public header, with the header's own names (`event_channel.EVTCHNOP_send`, `xen.shared_info`). The only
change: hypercall numbers drop the underscores of `__HYPERVISOR_*`. `layout` says how structures are declared and used.
Every size, offset and number is compared with Debian's `libxen-dev` by `tests/abi`; the exception is `devctl`,
LightVM's noxs interface, which no Debian header has.
"""
