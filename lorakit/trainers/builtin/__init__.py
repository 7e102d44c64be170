"""The built-in trainer: a program of its own that takes sdxl_train_network.py's arguments."""
