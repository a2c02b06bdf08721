/* What dom0 needs more of than most guests. */
#define MAP_AREA_PAGES 65536UL
#define EVENT_PORTS 131072U
#define GRANT_FRAMES 64U
#define THREAD_STACK_PAGES 4UL
#define XENSTORE_EVENTS 2048
#define XENSTORE_EVENTS_MOST 16384
