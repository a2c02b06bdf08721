"""What runs are told with: traces as text, and the figures after a run."""
