"""How a hypercall handler says no, or not all at once."""


class XenError(Exception):
    """A guest's mistake or a refused request: the hypercall returns ``-errno``. Never leaves the dispatcher."""

    def __init__(self, errno: int) -> None:
        super().__init__(errno)
        self.errno = errno


class Preempted(Exception):
    """A hypercall has done as much as one entry may do (`continuation`). `rest`: the arguments with which the guest
    enters it again; `served`, `result`: the call as it would be had it asked for no more than was done."""

    def __init__(self, rest: tuple[int, ...], served: tuple[int, ...], result: int = 0) -> None:
        super().__init__(rest)
        self.rest = rest
        self.served = served
        self.result = result


class DomainCrash(Exception):
    """The hypervisor must crash the current vCPU's domain; `cause` is the line that the report begins with."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause
