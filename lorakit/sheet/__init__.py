"""Contact sheets: X/Y/Z grids of pictures from archived checkpoints. No torch here: a program of its own draws the cells."""
