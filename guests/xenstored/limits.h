/* The XenStore's domain talks to every other one. */
#define MAP_AREA_PAGES 16384UL
#define EVENT_PORTS 4096U
