"""Search spaces: families of networks, and their registry (`base.py`)."""
