"""Error numbers of hypercalls (returned negated). They are Linux's, whatever the guest is.

Source: Xen 4.17 public/errno.h.
"""

from pyvmm.abi.layout import number_names

EPERM = 1

ENOENT = 2

ESRCH = 3

EIO = 5

ENXIO = 6

E2BIG = 7

ENOEXEC = 8

EBADF = 9

ECHILD = 10

EAGAIN = 11

EWOULDBLOCK = 11

ENOMEM = 12

EACCES = 13

EFAULT = 14

EBUSY = 16

EEXIST = 17

EXDEV = 18

ENODEV = 19

ENOTDIR = 20

EISDIR = 21

EINVAL = 22

ENFILE = 23

EMFILE = 24

ENOSPC = 28

EROFS = 30

EMLINK = 31

EDOM = 33

ERANGE = 34

EDEADLK = 35

EDEADLOCK = 35

ENAMETOOLONG = 36

ENOLCK = 37

ENOSYS = 38

ENOTEMPTY = 39

ENODATA = 61

ETIME = 62

EBADMSG = 74

EOVERFLOW = 75

EILSEQ = 84

ENOTSOCK = 88

EMSGSIZE = 90

EOPNOTSUPP = 95

EADDRINUSE = 98

EADDRNOTAVAIL = 99

ENOBUFS = 105

EISCONN = 106

ENOTCONN = 107

ETIMEDOUT = 110

ECONNREFUSED = 111


ERRNO_NAMES = number_names(globals(), "E")
"""Number to name; of two names for one number the more usual one."""

ERRNO_TEXT = {
    EPERM: "the caller may not do this",
    ENOENT: "no such entry",
    ESRCH: "no such domain",
    EIO: "input or output failed",
    ENXIO: "no such device or slot",
    E2BIG: "argument list is too long",
    ENOEXEC: "image format not understood",
    EBADF: "bad descriptor",
    ECHILD: "no child",
    EAGAIN: "not now, try again",
    ENOMEM: "out of memory",
    EACCES: "access denied",
    EFAULT: "bad guest address",
    EBUSY: "in use",
    EEXIST: "exists already",
    EXDEV: "belongs to somebody else",
    ENODEV: "no such device",
    ENOTDIR: "not a directory",
    EISDIR: "is a directory",
    EINVAL: "invalid argument",
    ENFILE: "table is full",
    EMFILE: "too many open",
    ENOSPC: "no space left",
    EROFS: "read only",
    EMLINK: "too many links",
    EDOM: "argument outside the domain",
    ERANGE: "result cannot be represented",
    EDEADLK: "would deadlock",
    ENAMETOOLONG: "name is too long",
    ENOLCK: "no lock available",
    ENOSYS: "not implemented",
    ENOTEMPTY: "not empty",
    ENODATA: "no data",
    ETIME: "timer expired",
    EBADMSG: "malformed message",
    EOVERFLOW: "value is too large for its type",
    EILSEQ: "illegal byte sequence",
    ENOTSOCK: "not a socket",
    EMSGSIZE: "message is too large",
    EOPNOTSUPP: "not supported here",
    EADDRINUSE: "address in use",
    EADDRNOTAVAIL: "address not available",
    ENOBUFS: "no buffer space",
    EISCONN: "connected already",
    ENOTCONN: "not connected",
    ETIMEDOUT: "timed out",
    ECONNREFUSED: "connection refused",
}
"""What each error means when a hypercall returns it, for people."""
