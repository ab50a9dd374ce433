"""Errors, settings, files, images, progress: used by all packages, imports none of them."""
