"""Other trainers' recipes: what they say, read into a preset with the origin of every value, written out, and counted their way."""
