"""Models to and from folders: configurations, key tables, files, and the registry of systems."""
