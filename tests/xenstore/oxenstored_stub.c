/* Lets Debian's oxenstored run on a machine without Xen, for tests: LD_PRELOADed, it stands in for the few hypervisor calls the
 * daemon makes. Event channels are messages of four bytes (a port number) on a socket inherited from the test, in both directions;
 * a foreign page is a file in a directory of the test. Environment: PYVMM_STUB_FD, PYVMM_STUB_DIR. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static int dummy;

static int channel(void) { return atoi(getenv("PYVMM_STUB_FD")); }

void *xc_interface_open(void *logger, void *dombuild_logger, unsigned flags) { return &dummy; }
int xc_interface_close(void *xch) { return 0; }

void *xc_map_foreign_range(void *xch, uint32_t domid, int size, int prot, unsigned long mfn)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/page.%u", getenv("PYVMM_STUB_DIR"), domid);
    int fd = open(path, O_RDWR);
    if (fd < 0)
        return NULL;
    void *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return page == MAP_FAILED ? NULL : page;
}

void *xenevtchn_open(void *logger, unsigned flags) { return &dummy; }
int xenevtchn_close(void *xce) { return 0; }
int xenevtchn_fd(void *xce) { return channel(); }
int xenevtchn_bind_virq(void *xce, unsigned virq) { return 1; }
/* The daemon's own port has the same number as the domain's. */
int xenevtchn_bind_interdomain(void *xce, uint32_t domid, unsigned port) { return (int)port; }
int xenevtchn_unbind(void *xce, uint32_t port) { return 0; }
int xenevtchn_unmask(void *xce, uint32_t port) { return 0; }

int xenevtchn_notify(void *xce, uint32_t port)
{
    send(channel(), &port, sizeof(port), MSG_DONTWAIT);
    return 0;
}

int xenevtchn_pending(void *xce)
{
    uint32_t port;
    ssize_t got = recv(channel(), &port, sizeof(port), 0);
    if (got == 0)
        _exit(0); /* the test is gone */
    return got == sizeof(port) ? (int)port : -1;
}

int setrlimit(__rlimit_resource_t resource, const struct rlimit *limit) { return 0; }
