/* Teams on busy machines: when to stop waiting for a thread, and how long to do with fewer. Internal to csrc/. */
#ifndef FM_PATIENCE_H
#define FM_PATIENCE_H

#include <stdint.h>

/* Nanoseconds that a team's first thread waits for the others to come, and that a thread may be kept from running
 * before its team ends. One image's longest stage takes two threads some 70 us (Zen 3); the system's turns are 3 to 4
 * ms. */
enum { FM_PATIENCE = 300000 };

int64_t fm_now(void);       /* nanoseconds since some time */
int64_t fm_idle_time(void); /* likewise, only those in which the calling thread did not run; 0 where nobody can say */

/* To be told of each team whose threads waited for each other: how many they were, and whether one was late. */
void fm_team_ended(int size, int late);

#endif
