/* daytime: tells the time by UDP on port 13 (RFC 867) and answers pings, on its first network device.
 *
 * Command line: `net=xs` or `net=noxs` (else: what the host offers), `ip=10.0.0.2/24` (else: what the device says), `count=N` ends after
 * so many answers, `close=N` closes the device after so many, connects again and goes on; `blank` leaves checksums to the back
 * end; `split=N` sends frames in two parts; `wait` waits for a device where there is none. When its device is taken away it waits for
 * another one.
 */
#include "net.h"
#include "sysctlfront.h"

static struct netfront nic;
static struct sysctlfront sysctl;
static u64 answers;

static u32 daytime_text(char *to, u32 size)
{
    static const char *const days[] = {"Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"};
    static const char *const months[] = {"January", "February", "March", "April", "May", "June", "July", "August", "September",
                                         "October", "November", "December"};
    static const u8 lengths[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    u32 nanoseconds, month = 0, year = 1970;
    u64 seconds = wall_clock(&nanoseconds), day = seconds / 86400, left = day, in_day = seconds % 86400;
    for (;; year++) {
        bool leap = (year % 4 == 0 && year % 100) || year % 400 == 0;
        if (left < 365u + leap) {
            for (;; month++) {
                u32 n = lengths[month] + (leap && month == 1);
                if (left < n)
                    break;
                left -= n;
            }
            break;
        }
        left -= 365u + leap;
    }
    return (u32)snprintf(to, size, "%s, %s %lu, %u %02lu:%02lu:%02lu-UTC\r\n", days[day % 7], months[month], left + 1, year, in_day / 3600,
                         in_day / 60 % 60, in_day % 60);
}

static void answer(u32 ip, u16 port, const u8 *data, u32 n)
{
    char text[80];
    (void)data, (void)n; /* "the data in the received datagram is ignored" */
    if (udp_send(ip, port, 13, text, daytime_text(text, sizeof text)))
        answers++;
}

static bool stirred(void *arg)
{
    (void)arg;
    return net_follow_stirred(&nic) || sysctlfront_stirred(&sysctl);
}

void main(void)
{
    u64 count = option_number("count", 0), close = option_number("close", 0);
    const struct bus *bus = bus_choose("net", noxs_dev_vif);
    sysctlfront_open(&sysctl, "sysctl");
    devices_watch(bus, noxs_dev_vif);
    if (!net_start_front(&nic)) {
        printf("daytime: no network device over %s\n", bus->name);
        if (!option("wait", NULL, 0))
            return;
    }
    udp_listen(13, answer);
    printf("daytime: ready\n");
    bool was = nic.connected;
    while (!count || answers < count) {
        bool any = net_poll();
        if (net_follow(&nic))
            any = true;
        if (was != nic.connected)
            printf("daytime: the device is %s\n", nic.connected ? "here" : "gone");
        was = nic.connected;
        if (!any)
            thread_wait(stirred, NULL);
        sysctlfront_obey(&sysctl);
        if (close && answers == close) {
            close = 0;
            netfront_disconnect(&nic);
            if (!device_restart(&nic.device) || !netfront_connect(&nic))
                panic("daytime: no second connection");
            printf("daytime: connected again\n");
        }
    }
    netfront_close(&nic);
    printf("daytime: %lu answers, %lu frames in, %lu out\n", answers, nic.frames_in, nic.frames_out);
}
