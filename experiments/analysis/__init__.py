"""What a finished run's loss landscape is like, class by class."""
