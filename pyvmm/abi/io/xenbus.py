"""States of a split driver's two halves.

Source: Xen 4.17 public/io/xenbus.h.
"""

from pyvmm.abi.layout import number_names

XenbusStateUnknown = 0
XenbusStateInitialising = 1
XenbusStateInitWait = 2
XenbusStateInitialised = 3
XenbusStateConnected = 4
XenbusStateClosing = 5
XenbusStateClosed = 6
XenbusStateReconfiguring = 7
XenbusStateReconfigured = 8

XENBUS_STATE_NAMES = number_names(globals(), "XenbusState", keep=False)

XENBUS_STATE_TEXT = {
    XenbusStateUnknown: "no state node, or the device is gone",
    XenbusStateInitialising: "just created, nothing published yet",
    XenbusStateInitWait: "back end is ready and waits for the front end's details",
    XenbusStateInitialised: "front end has published rings and event channels",
    XenbusStateConnected: "works",
    XenbusStateClosing: "is being shut down",
    XenbusStateClosed: "closed; may be started again",
    XenbusStateReconfiguring: "parameters are being changed",
    XenbusStateReconfigured: "parameters were changed",
}
"""What each state means, for people."""
