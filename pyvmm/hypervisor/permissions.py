"""Who may act on whom: Xen's default security policy ("dummy XSM"), how a domid names a domain, which addresses a
guest may name.

Facts from Xen 4.17, xen/include/xsm/dummy.h (xsm_default_action) and xen/common/domain.c (rcu_lock_domain_by_any_id).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm.abi import arch_x86_64, errno, xen
from pyvmm.hypervisor.errors import XenError

if TYPE_CHECKING:
    from pyvmm.hypervisor.domain import Domain


def may_target(source: Domain, target: Domain) -> bool:
    """XSM_TARGET: a domain may act on itself; a device model on its target; the XenStore domain and dom0 on
    everybody."""
    return source is target or source.xenstore or source.target is target or source.privileged


def may_serve(source: Domain, target: Domain) -> bool:
    """XSM_DM_PRIV: as `may_target`, but neither on itself nor as the XenStore domain."""
    return source.target is target or source.privileged


def require_target(source: Domain, target: Domain) -> None:
    """-EPERM unless `may_target`."""
    if not may_target(source, target):
        raise XenError(errno.EPERM)


def require_privileged(source: Domain) -> None:
    """XSM_PRIV: -EPERM for everybody but the control domain."""
    if not source.privileged:
        raise XenError(errno.EPERM)


def find(source: Domain, domid: int) -> Domain | None:
    """The domain that `domid` (16 bits) names for a hypercall of `source`; DOMID_SELF is `source`."""
    return source if domid == xen.DOMID_SELF else source.hv.domains.get(domid)


def find_or_esrch(source: Domain, domid: int) -> Domain:
    """As `find`, but -ESRCH when there is no such domain."""
    domain = find(source, domid)
    if domain is None:
        raise XenError(errno.ESRCH)
    return domain


def access_ok(va: int) -> bool:
    """A guest handle may point to `va`: in the lower half, or above the hypervisor's range (Xen's access_ok; nothing
    is read)."""
    return va < 1 << 47 or va >= arch_x86_64.HYPERVISOR_VIRT_END
