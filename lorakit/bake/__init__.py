"""The bake: from a preset to a sealed run folder."""
