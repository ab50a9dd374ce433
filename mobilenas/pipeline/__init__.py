"""Jobs over a run folder: requests, stages, several runs side by side."""
