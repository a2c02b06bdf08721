/* XenStore from a domU's side: the ring, the main operations, a watch, a transaction. */
#include "check.h"

void check_store(void)
{
    char value[256], token[64];
    if (is_dom0()) {
        equal("dom0 has no store at boot", start_info->store_mfn, 0);
        return;
    }
    check(xenstore_read(0, "domid", value, sizeof value) > 0, "read: domid");
    check(xenstore_read(0, "vm", value, sizeof value) > 0 && !strncmp(value, "/vm/", 4), "read: vm");
    int n = xenstore_read(0, "no/such/node", value, sizeof value);
    check(n < 0 && !strcmp(value, "ENOENT"), "read: a node that is not there is ENOENT");
    n = xenstore_write(0, "name", "x");
    check(n < 0, "write: our name is not ours to change");
    check(xenstore_write(0, "data/abicheck", "one") >= 0, "write: below data");
    text_is("read: it is there", xenstore_read(0, "data/abicheck", value, sizeof value) < 0 ? "" : value, "one");
    n = xenstore_directory(0, "data", value, sizeof value);
    check(n == 9 && !strcmp(value, "abicheck"), "directory: data");
    n = xenstore_read(0, "bad//path", value, sizeof value);
    check(n < 0 && !strcmp(value, "EINVAL"), "read: a bad path is EINVAL");
    n = xenstore_request(99, 0, "", 1, value, sizeof value);
    check(n < 0 && !strcmp(value, "ENOSYS"), "no such operation is ENOSYS");
    n = xenstore_request(XS_INTRODUCE, 0, "0\0001\0002", 6, value, sizeof value);
    check(n < 0, "introduce is for dom0");

    check(xenstore_watch("data", "t") >= 0, "watch");
    xenstore_wait_watch(value, token, sizeof token);
    check(!strcmp(value, "data") && !strcmp(token, "t"), "watch: fires once at first");
    xenstore_write(0, "data/abicheck", "two");
    xenstore_wait_watch(value, token, sizeof token);
    text_is("watch: a write below fires it", value, "data/abicheck");
    n = xenstore_request(XS_WATCH, 0, "data\0t", 7, value, sizeof value);
    check(n < 0 && !strcmp(value, "EEXIST"), "watch: a second time is EEXIST");
    check(xenstore_unwatch("data", "t") >= 0, "unwatch");

    u32 t = xenstore_begin();
    check(t != 0, "transaction_start");
    xenstore_write(t, "data/abicheck", "three");
    text_is("transaction: not seen outside", xenstore_read(0, "data/abicheck", value, sizeof value) < 0 ? "" : value, "two");
    text_is("transaction: seen inside", xenstore_read(t, "data/abicheck", value, sizeof value) < 0 ? "" : value, "three");
    check(xenstore_end(t, true) >= 0, "transaction_end");
    text_is("transaction: seen after it", xenstore_read(0, "data/abicheck", value, sizeof value) < 0 ? "" : value, "three");
    t = xenstore_begin();
    xenstore_write(t, "data/abicheck", "four");
    check(xenstore_end(t, false) >= 0, "transaction_end: give up");
    text_is("transaction: given up, nothing changed", xenstore_read(0, "data/abicheck", value, sizeof value) < 0 ? "" : value, "three");
    check(xenstore_end(4242, true) < 0, "transaction_end: of none");
    check(xenstore_remove(0, "data/abicheck") >= 0, "rm");
    check(xenstore_read(0, "data/abicheck", value, sizeof value) < 0, "rm: it is gone");
}
