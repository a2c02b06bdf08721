/* xen_version: each subcommand with good and bad pointers, and the features. */
#include "check.h"

void check_version(void)
{
    char buffer[2048];
    struct { char compiler[64], by[16], domain[32], date[32]; } *info = (void *)buffer;
    u64 word = 0;
    answer("version", hypercall_xen_version(XENVER_version, NULL), 4 << 16 | 17);
    answer("extraversion", hypercall_xen_version(XENVER_extraversion, buffer), 0);
    check(buffer[0] == '.', "extraversion begins with a dot");
    answer("extraversion to a bad pointer", hypercall_xen_version(XENVER_extraversion, WILD), -EFAULT);
    answer("extraversion into Xen", hypercall_xen_version(XENVER_extraversion, (void *)M2P_TABLE), -EFAULT);
    answer("compile_info", hypercall_xen_version(XENVER_compile_info, info), 0);
    answer("compile_info to a bad pointer", hypercall_xen_version(XENVER_compile_info, WILD), -EFAULT);
    answer("capabilities", hypercall_xen_version(XENVER_capabilities, buffer), 0);
    check(!strncmp(buffer, "xen-3.0-x86_64 ", 15), "capabilities begin with xen-3.0-x86_64");
    answer("capabilities to a bad pointer", hypercall_xen_version(XENVER_capabilities, WILD), -EFAULT);
    answer("changeset", hypercall_xen_version(XENVER_changeset, buffer), 0);
    answer("platform_parameters", hypercall_xen_version(XENVER_platform_parameters, &word), 0);
    equal("platform_parameters: virt_start", word, M2P_TABLE);
    answer("platform_parameters to a bad pointer", hypercall_xen_version(XENVER_platform_parameters, WILD), -EFAULT);
    struct feature_info f = {0, 0};
    answer("get_features 0", hypercall_xen_version(XENVER_get_features, &f), 0);
    equal("get_features 0: the bits", f.submap, is_dom0() ? 0x228f0 : 0x220e0);
    f = (struct feature_info){1, 0};
    answer("get_features 1", hypercall_xen_version(XENVER_get_features, &f), -EINVAL);
    answer("get_features from a bad pointer", hypercall_xen_version(XENVER_get_features, WILD), -EFAULT);
    answer("pagesize", hypercall_xen_version(XENVER_pagesize, NULL), 4096);
    answer("guest_handle", hypercall_xen_version(XENVER_guest_handle, buffer), 0);
    answer("guest_handle to a bad pointer", hypercall_xen_version(XENVER_guest_handle, WILD), -EFAULT);
    answer("commandline", hypercall_xen_version(XENVER_commandline, buffer), 0);
    answer("commandline to a bad pointer", hypercall_xen_version(XENVER_commandline, WILD), -EFAULT);
    answer("no such command", hypercall_xen_version(11, NULL), -ENOSYS);
}
