"""Small checkpoints of the SDXL family with random weights, and a demo data set: a program of its own."""
