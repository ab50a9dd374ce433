"""What can be found: families of networks, and the one registry of them (`base.py`)."""
