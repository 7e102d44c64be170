"""Many runs: a grid over a preset's keys."""
