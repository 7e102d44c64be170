"""A launcher that starts in no time, for tests of what comes after it: does what accelerate does for one process."""
