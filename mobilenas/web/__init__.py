"""Pages that a local server gives to a browser; mobilenas[web]."""
