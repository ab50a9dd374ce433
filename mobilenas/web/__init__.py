"""Pages that a local server serves to a browser; needs mobilenas[web]."""
