"""Tools that watch the tape (anomaly, draw, profiler), and info: what this machine has."""
