"""The channels space: a traceable model at other channel sizes."""
