/* hello: the smallest useful guest. It says where it runs and powers off. */
#include "kernel.h"

void main(void)
{
    u32 vcpus = 0;
    while (vcpus < 32 && hypercall_vcpu_op(VCPUOP_is_up, vcpus, NULL) >= 0)
        vcpus++;
    s64 version = hypercall_xen_version(XENVER_version, NULL);
    printf("Hello from a PV guest.\n");
    printf("  domain        %s\n", is_dom0() ? "dom0" : "domU");
    printf("  Xen           %ld.%ld\n", version >> 16, version & 0xffff);
    printf("  memory        %lu MiB\n", start_info->nr_pages / 256);
    printf("  vcpus         %u\n", vcpus);
    printf("  command line  \"%s\"\n", start_info->cmd_line);
    if (!is_dom0() && start_info->store_mfn) {
        char name[64], domid[16];
        if (xenstore_read(0, "name", name, sizeof name) >= 0 && xenstore_read(0, "domid", domid, sizeof domid) >= 0)
            printf("  XenStore      name \"%s\", domid %s\n", name, domid);
    }
    printf("Goodbye.\n");
}
