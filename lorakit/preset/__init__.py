"""What is asked: typed presets for SDXL LoRA training."""
