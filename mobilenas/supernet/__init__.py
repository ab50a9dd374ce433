"""What the supernets of all families share: channel samplers, schedules."""
