"""What is kept: run folders, their facts and state, seals."""
