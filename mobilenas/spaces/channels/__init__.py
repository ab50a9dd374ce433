"""The channel sizes of any traceable model, all else of it as it is."""
