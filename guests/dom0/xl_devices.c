/* Devices as libxl 4.8.1 adds them: libxl_device.c libxl__device_generic_add and what calls it for disks, nics and the console. The
 * toolstack's record under /libxl says the same as the back end's directory, and nobody changes it later.
 */
#include "xl.h"
#include "store_watch.h"

enum { BACK_END_LIMIT = 10 }; /* seconds: LIBXL_INIT_TIMEOUT */

static const struct message pair_paths[] = {DOMAIN_PATH("$e"), DOMAIN_PATH("$d")}, exists[] = {READ("$p")};
static const struct message record[] = {REMOVE("$p"), WRITE("$p/frontend", "$f"), WRITE("$p/backend", "$b")};
static const struct message front[] = {REMOVE("$f"), MAKE("$f", "n$d r$e"), WRITE("$f/backend", "$b")};
static const struct message front_console[] = {REMOVE("$f"), MAKE("$f", "n$e r$d"), WRITE("$f/backend", "$b")};
static const struct message back[] = {REMOVE("$b"), MAKE("$b", "n$e r$d"), WRITE("$b/frontend", "$f")};

struct node { const char *name, *value; bool unless_empty; };
#define PERMS_FRONT "n$d r$e"
static const struct node disk_front[] = {{"backend-id", "$e", 0}, {"state", "1", 0}, {"virtual-device", "$i", 0}, {"device-type", "$z", 0},
                                         {"protocol", "x86_64-abi", 0}};
static const struct node disk_back[] = {{"params", "$t", 0}, {"script", "$s", 0}, {"frontend-id", "$d", 0}, {"online", "1", 0},
    {"removable", "$Z", 0}, {"bootable", "1", 0}, {"state", "1", 0}, {"dev", "$x", 0}, {"type", "$y", 0}, {"mode", "$o", 0},
    {"device-type", "$z", 0}, {"discard-enable", "$w", 0}};
static const struct node nic_front[] = {{"backend-id", "$e", 0}, {"state", "1", 0}, {"handle", "$i", 0}, {"mac", "$m", 0}};
static const struct node nic_back[] = {{"frontend-id", "$d", 0}, {"online", "1", 0}, {"state", "1", 0}, {"script", "$s", 0}, {"mac", "$m", 0},
    {"ip", "$a", 1}, {"bridge", "$g", 0}, {"handle", "$i", 0}, {"type", "vif", 0}};
static const struct node console_front[] = {{"backend-id", "$e", 0}, {"limit", "1048576", 0}, {"type", "xenconsoled", 0}, {"output", "pty", 0},
    {"tty", "", 0}, {"port", "$P", 0}, {"ring-ref", "$R", 0}};
static const struct node console_back[] = {{"frontend-id", "$d", 0}, {"online", "1", 0}, {"state", "1", 0}, {"protocol", "vt100", 0}};

static const struct kind {
    const char *name;
    bool before; /* what is asked for before it is added is part of the transaction, which then begins with READ exists */
    const struct message *front_start;
    const char *front_perms;
    const struct node *front, *back;
    u32 nfront, nback;
} disk = {"vbd", true, front, PERMS_FRONT, disk_front, disk_back, COUNT(disk_front), COUNT(disk_back)},
  nic = {"vif", true, front, PERMS_FRONT, nic_front, nic_back, COUNT(nic_front), COUNT(nic_back)},
  console = {"console", false, front_console, "n$e r$d", console_front, console_back, COUNT(console_front), COUNT(console_back)};

static int nodes(struct scope *s, const char *where, const struct node *list, u32 n, const char *perms)
{
    char path[64];
    int rc = 0;
    for (u32 i = 0; i < n && !rc; i++) {
        if (list[i].unless_empty && !*s->words[list[i].value[1] - 'A'])
            continue;
        snprintf(path, sizeof path, "%s/%s", where, list[i].name);
        struct message m = {XS_WRITE, path, list[i].value, perms, false};
        rc = store_message(s, &m);
    }
    return rc;
}

static int generic_add(struct scope *s, const struct kind *k)
{
    int rc = STORE_SEND(s, record);
    if (!rc)
        rc = store_send(s, k->front_start, COUNT(front));
    if (!rc)
        rc = nodes(s, "$f", k->front, k->nfront, k->front_perms);
    if (!rc)
        rc = STORE_SEND(s, back);
    if (!rc)
        rc = nodes(s, "$b", k->back, k->nback, NULL);
    return rc ? rc : nodes(s, "$p", k->back, k->nback, NULL);
}

static int checked_add(struct scope *s, const struct kind *k)
{
    u32 transaction = s->transaction;
    int rc = STORE_SEND(s, exists);
    if (!rc && s->length >= 0)
        return guest_fail(s->guest, -EEXIST, "it has a device of that number already");
    s->transaction = 0;
    if (!rc)
        rc = STORE_SEND(s, pair_paths);
    s->transaction = transaction;
    return rc ? rc : generic_add(s, k);
}

static int disk_body(struct scope *s) { return checked_add(s, &disk); }
static int nic_body(struct scope *s) { return checked_add(s, &nic); }
static int console_body(struct scope *s) { return generic_add(s, &console); }

/* libxl__wait_device_connection: until the back end is ready for the guest, InitWait. */
static int wait_back_end(struct scope *s)
{
    static const struct message path[] = {DOMAIN_PATH("$e")};
    struct store_watch w;
    char state[128];
    u64 limit = now() + BACK_END_LIMIT * 1000000000UL;
    scope_expand(s, "$b/state", state, sizeof state);
    int rc = STORE_SEND(s, path);
    if (rc || (rc = store_watch(&w, state)))
        return rc;
    for (;;) {
        if (!store_watch_wait(&w, limit)) {
            rc = guest_fail(s->guest, -EAGAIN, "a back end was not ready within 10 seconds");
            break;
        }
        rc = store_read(s, "$b/state");
        if (rc > 0 && s->reply[0] == '0' + XenbusStateInitWait) {
            rc = 0;
            break;
        }
        if (rc < 0 && rc != -ENOENT)
            break;
        if (rc > 0 && s->reply[0] >= '0' + XenbusStateClosing) {
            rc = guest_fail(s->guest, -ENODEV, "a back end refuses its device");
            break;
        }
    }
    store_unwatch(&w);
    return rc;
}

/* libxl__get_hotplug_script_info before the script runs and again when it has ended. */
static const struct message disk_before[] = {DOMAIN_PATH("$e"), READ_NEEDED("domid"), DOMAIN_PATH("$e"), READ_NEEDED("$b/script"), DOMAIN_PATH("$e")};
static const struct message disk_after[] = {DOMAIN_PATH("$e"), DOMAIN_PATH("$e"), READ_NEEDED("domid")};
static const struct message nic_before[] = {
    DOMAIN_PATH("$e"), READ_NEEDED("domid"), DOMAIN_PATH("$d"), READ("$h/image/device-model-domid"), DOMAIN_PATH("$e"), READ_NEEDED("$b/script"),
    DOMAIN_PATH("$e"), READ_NEEDED("$b/type"), DOMAIN_PATH("$e"), READ("$b/gatewaydev"), DOMAIN_PATH("$e"), READ_NEEDED("$b/type")};
static const struct message nic_after[] = {
    DOMAIN_PATH("$e"), DOMAIN_PATH("$e"), READ_NEEDED("domid"), DOMAIN_PATH("$d"), READ("$h/image/device-model-domid"), DOMAIN_PATH("$e"),
    READ_NEEDED("$b/script"), DOMAIN_PATH("$e"), READ_NEEDED("$b/type")};

/* All are added first, then each is waited for: a multidev group. */
int xl_add_disks(struct guest *g)
{
    struct scope s;
    int rc = 0;
    scope_open(&s, g);
    for (; g->nvbds < g->config.nvbds && !rc; g->nvbds++) {
        const struct vbd_config *d = &g->config.vbds[g->nvbds];
        if (!d->raw)
            return guest_fail(g, -EOPNOTSUPP, "its disk is of a format that no back end here knows");
        scope_vbd(&s, d);
        scope_word(&s, 'Z', "%d", d->cdrom);
        rc = store_transact(&s, disk_body);
    }
    for (u32 i = 0; i < g->nvbds && !rc; i++) {
        scope_vbd(&s, &g->config.vbds[i]);
        if (!(rc = wait_back_end(&s)) && !(rc = STORE_SEND(&s, disk_before)) && !(rc = hotplug_block(&s)))
            rc = STORE_SEND(&s, disk_after);
    }
    return rc ? guest_fail(g, rc, "its disk cannot be added") : 0;
}

int xl_add_console(struct guest *g)
{
    static const struct message need_qemu[] = {READ_NEEDED("domid")};
    struct scope s;
    scope_open(&s, g);
    scope_device(&s, "console", 0);
    scope_word(&s, 'P', "%u", g->dom.console_port);
    scope_word(&s, 'R', "%lu", g->dom.console_mfn);
    scope_word(&s, 'f', "/local/domain/%u/console", g->domid); /* the first console's place is older than the others' */
    int rc = STORE_SEND(&s, pair_paths);
    if (!rc)
        rc = store_transact(&s, console_body);
    if (!rc)
        rc = STORE_SEND(&s, need_qemu);
    return rc ? guest_fail(g, rc, "its console cannot be added") : 0;
}

int xl_add_nics(struct guest *g)
{
    struct scope s;
    int rc = 0;
    scope_open(&s, g);
    for (; g->nvifs < g->config.nvifs && !rc; g->nvifs++) {
        scope_vif(&s, &g->config.vifs[g->nvifs]);
        rc = store_transact(&s, nic_body);
    }
    for (u32 i = 0; i < g->nvifs && !rc; i++) {
        scope_vif(&s, &g->config.vifs[i]);
        if (!(rc = wait_back_end(&s)) && !(rc = STORE_SEND(&s, nic_before)) && !(rc = hotplug_vif(&s)))
            rc = STORE_SEND(&s, nic_after);
    }
    return rc ? guest_fail(g, rc, "its network interface cannot be added") : 0;
}

/* A directory, and the one above it if that is empty then: libxl__xs_path_cleanup. */
static int remove_up(struct scope *s, const char *path, const char *above)
{
    struct message remove = REMOVE(path), list = {XS_DIRECTORY, above, NULL, NULL, false}, also = REMOVE(above);
    int rc = store_message(s, &remove);
    if (!rc)
        rc = store_message(s, &list);
    if (!rc && !s->length)
        rc = store_message(s, &also);
    return rc;
}

/* libxl__device_destroy by force: the domain is paused and nobody is waited for. */
static int destroy_one(struct scope *s, const char *above)
{
    static const struct message offline[] = {WRITE("$b/online", "0"), WRITE("$b/state", "5")};
    int rc = STORE_SEND(s, offline), first = rc == -ENOENT ? 0 : rc;
    if ((rc = remove_up(s, "$b", above)) && !first)
        first = rc;
    static const struct message rest[] = {REMOVE("$f"), REMOVE("$p")};
    rc = STORE_SEND(s, rest);
    return first ? first : rc;
}

int xl_remove_disks(struct guest *g)
{
    struct scope s;
    int first = 0;
    scope_open(&s, g);
    while (g->nvbds) {
        scope_vbd(&s, &g->config.vbds[--g->nvbds]);
        int rc = destroy_one(&s, "/local/domain/0/backend/vbd/$d");
        first = first ? first : rc;
    }
    return first;
}

int xl_remove_nics(struct guest *g)
{
    struct scope s;
    int first = 0;
    scope_open(&s, g);
    while (g->nvifs) {
        scope_vif(&s, &g->config.vifs[--g->nvifs]);
        int rc = destroy_one(&s, "/local/domain/0/backend/vif/$d");
        first = first ? first : rc;
    }
    return first;
}

int xl_remove_console(struct guest *g)
{
    static const struct message gone[] = {REMOVE("$f"), REMOVE("$p")};
    struct scope s;
    scope_open(&s, g);
    scope_device(&s, "console", 0);
    scope_word(&s, 'f', "/local/domain/%u/console", g->domid);
    int rc = remove_up(&s, "$b", "/local/domain/0/backend/console/$d");
    return rc ? rc : STORE_SEND(&s, gone);
}
