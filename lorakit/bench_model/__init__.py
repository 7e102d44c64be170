"""Small checkpoints of the SDXL family with random weights, and a demo data set: a program of its own."""

from lorakit.trainers import builtin as builtin  # quiets a library before anything here imports it
