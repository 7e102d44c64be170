"""sd-scripts, the trainer in an environment of its own: its pin, its installation, what it takes, what state it is in."""
