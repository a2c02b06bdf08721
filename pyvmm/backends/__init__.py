"""Services of the control domain: the console daemon and the XenStore daemon, as tasks of a native domain."""
