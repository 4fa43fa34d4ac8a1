"""What the scenarios share: contenders, servers, load, repetitions, intervals, report."""
