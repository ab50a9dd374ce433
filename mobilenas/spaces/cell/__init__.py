"""Networks of repeated cells, as in DARTS."""
