"""How a hypercall handler says no."""


class XenError(Exception):
    """A guest's mistake or a refused request: the hypercall returns ``-errno``. Never leaves the dispatcher."""

    def __init__(self, errno: int) -> None:
        super().__init__(errno)
        self.errno = errno


class DomainCrash(Exception):
    """The hypervisor must crash the current vCPU's domain; `cause` is the line that the report begins with."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause
