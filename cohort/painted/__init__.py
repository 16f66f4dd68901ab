"""Injuries of known place, size and contrast, painted into a cohort's own normal scans. Never clinical evidence."""
