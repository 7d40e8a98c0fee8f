"""The training command: its flags, its run folder, its display and its report."""
