"""Pages that a local server serves to a browser; mobilenas[web]."""
