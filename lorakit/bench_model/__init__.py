"""A small checkpoint of the SDXL family, for the quickstart and the tests."""
