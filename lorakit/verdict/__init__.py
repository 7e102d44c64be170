"""What it means: runs side by side."""
