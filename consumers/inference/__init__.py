"""Takes a request, runs and measures it, and says what happened. Knows only the broker."""
