"""Tests of the installation of sd-scripts."""
