"""What a mail is: values, statuses, refusals, limits and schedules. Pure: no I/O, no clock, no randomness."""
