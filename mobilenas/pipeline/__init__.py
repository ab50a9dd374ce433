"""Jobs over a run folder: what was asked for, the stages, several runs side by side."""
