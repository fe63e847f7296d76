"""Readers of weights files, one module for each form. A module is imported when a file of its form is read."""
