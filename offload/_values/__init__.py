"""Values that cross the rooms: options, statistics, records. No I/O, no clock, no process."""
