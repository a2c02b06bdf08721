"""pyvmm: an emulated x86-64 machine that is a Xen host."""
