/* Teams on busy machines: when to stop waiting for a thread, and how long to use fewer threads. Internal to csrc/. */
#ifndef FM_PATIENCE_H
#define FM_PATIENCE_H

#include <stdint.h>

/* Nanoseconds that a team's first thread waits for the others to begin, and that a thread may be kept from running
 * before its team ends. The longest step of one image takes two threads some 70 us (Zen 3); the system's time slices
 * are 3 to 4 ms. */
enum { FM_PATIENCE = 300000 };

int64_t fm_now(void);       /* nanoseconds since an arbitrary time */
int64_t fm_idle_time(void); /* the same, but only while the calling thread did not run; 0 if unknown */

/* Must be called after each team with barriers, with its size and whether a thread was late. */
void fm_team_ended(int size, int late);

#endif
