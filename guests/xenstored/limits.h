/* The XenStore's domain talks to every other one. */
#define MEMORY_PAGES 512UL /* for page tables; the store is in the heap behind */
#define MAP_AREA_PAGES 16384UL
#define EVENT_PORTS 4096U
