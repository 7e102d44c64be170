"""What is kept: run folders, their records, state and seal."""
