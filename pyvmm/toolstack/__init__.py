"""What a control domain does to make and end other domains: through hypercalls and the XenStore, as libxc and libxl
do."""
