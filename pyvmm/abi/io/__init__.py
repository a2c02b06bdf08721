"""Protocols between domains: shared rings, the console, XenStore, device states. One module a header in public/io."""
