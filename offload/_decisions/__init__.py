"""The pure room: every decision of a pool, with no I/O, no clock, no process and no thread.

words        what there is: tasks, workers, lanes, their states; the actions that are decided
wait_queue   the tasks that wait, in order, with the counters that follow from them
growth       how many workers there should be, and when a failed start is tried again
estimate     how long a newcomer would wait, going by measured runs
story        the last transitions, as evidence for a bug report
dispatcher   events in, actions out: the one object that the pool talks to
"""
