"""See accelerate/__init__.py."""
