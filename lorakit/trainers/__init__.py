"""Who trains: the catalogue of options, the command, the choice of trainer."""
