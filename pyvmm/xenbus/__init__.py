"""How the two ends of a split driver find and meet each other, over the XenStore or over a noxs control page.

`states` is the one table of state transitions; `backend` and `frontend` are the two ends that follow it, for any kind
of device; `xenstore` and `noxs` carry states and tables of features from one to the other; `resources` are the pages,
grants and ports of a native domain. What a device is, is none of this package's business: see `backend.DataPath`.
"""
