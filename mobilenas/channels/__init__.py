"""The search for channel sizes of any traceable model."""
