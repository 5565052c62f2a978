"""Those who act on events: inference runs and measures, projection writes down."""
