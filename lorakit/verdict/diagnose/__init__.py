"""What a run's evidence says about its training, and the preset to try next."""
