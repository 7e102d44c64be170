"""What a run shows: what its weights did, read with numpy alone."""
