"""The language of the service: what can happen, its envelope, and how it travels."""
